import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2
from pointsman_cli.data_dir import Run
from pointsman_cli.doctor.machine import Level, Machine, check_engine, check_hardware, look_at_machine
from pointsman_cli.doctor.running import check_configuration, check_port, check_ports, tool_calls_finding

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.ports import serving

Cli = Callable[..., Any]
Executable = Callable[[str], Path]

GOOD = Machine(
    python=(3, 11),
    architecture="x86_64",
    cores=2,
    cpu_flags=frozenset({"avx2", "avx512f"}),
    memory_available=16 * 2**30,
    disk_free=50 * 2**30,
)
VLLM = "print('0.32.0')"


def judged(machine: Machine) -> dict[str, tuple[Level, str]]:
    return {finding.what: (finding.level, finding.detail) for finding in check_hardware(machine)}


def test_a_healthy_machine_has_no_findings() -> None:
    assert {level for level, _ in judged(GOOD).values()} == {Level.OK}


@pytest.mark.parametrize(
    ("what", "change", "level", "message"),
    [
        ("python", {"python": (3, 10)}, Level.FAIL, "3.10; it takes 3.11 or newer"),
        ("cores", {"cores": 1}, Level.WARN, "two or more are better"),
        ("cpu", {"cpu_flags": frozenset({"avx2"})}, Level.WARN, "AVX2 without AVX512"),
        ("cpu", {"cpu_flags": frozenset({"sse4_2"})}, Level.FAIL, "neither AVX512 nor AVX2"),
        ("cpu", {"architecture": "aarch64"}, Level.WARN, "tried on x86_64 only"),
        ("memory", {"memory_available": 2 * 2**30}, Level.FAIL, "2.0 GiB free; the engine and the services need 3"),
        ("memory", {"memory_available": 4 * 2**30}, Level.WARN, "4.0 GiB free"),
        ("disk", {"disk_free": 2**29}, Level.FAIL, "0.5 GiB free; the models need 1 GiB, make room"),
    ],
)
def test_missing_parts_are_reported_with_the_remedy(
    what: str, change: dict[str, Any], level: Level, message: str
) -> None:
    found_level, detail = judged(replace(GOOD, **change))[what]

    assert found_level is level
    assert message in detail


@pytest.mark.parametrize(("free", "level"), [(2**27, Level.FAIL), (2**29, Level.WARN), (2**31, Level.OK)])
def test_a_machine_without_an_engine_needs_disk_space_too(free: int, level: Level) -> None:
    found = {finding.what: finding for finding in check_hardware(replace(GOOD, disk_free=free), engine=False)}

    assert found.keys() == {"python", "disk"}
    assert found["disk"].level is level
    assert level is not Level.FAIL or "the services need 0.25 GiB, make room or choose" in found["disk"].detail


def test_a_machine_can_be_checked_before_its_data_directory_exists(tmp_path: Path) -> None:
    machine = look_at_machine(tmp_path / "not" / "yet")

    assert machine.python == sys.version_info[:2]
    assert machine.cores >= 1
    assert machine.disk_free > 0


def test_the_version_of_vllm_in_the_engine_environment_is_reported(executable: Executable) -> None:
    finding = check_engine(executable(VLLM))

    assert finding.level is Level.OK
    assert "vLLM 0.32.0" in finding.detail


def test_an_engine_environment_without_vllm_fails_with_the_reason(executable: Executable) -> None:
    finding = check_engine(executable("import vllm_that_is_not_there"))

    assert finding.level is Level.FAIL
    assert "cannot import vllm: ModuleNotFoundError: No module named 'vllm_that_is_not_there'" in finding.detail
    assert "make env" in finding.detail


def test_a_missing_engine_environment_fails_with_the_remedy(tmp_path: Path) -> None:
    finding = check_engine(tmp_path / "python")

    assert finding.level is Level.FAIL
    assert f"{tmp_path / 'python'} is not there; install it with `make env` in a clone" in finding.detail


def test_a_port_in_use_fails_with_the_option_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        finding = check_port("http port", f"127.0.0.1:{taken.getsockname()[1]}", "--http", None)

    assert finding.level is Level.FAIL
    assert "choose another with `pointsman up --http`" in finding.detail


def test_the_ports_that_are_checked_are_those_of_the_running_stack() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        http, grpc = (f"127.0.0.1:{each.getsockname()[1]}" for each in (taken, other))
        run = Run(os.getpid(), "example", f"http://{http}", grpc, "", "", "", "", "", "", "", {})

        findings = check_ports("", "", run)

    assert [(finding.level, finding.detail) for finding in findings] == [
        (Level.OK, f"{http} is ours (pid {os.getpid()})"),
        (Level.OK, f"{grpc} is ours (pid {os.getpid()})"),
    ]


def lines(outcome: Any) -> dict[str, str]:
    """Parses the output into the text after each colon, by the text before it: {"fail example": "..."}."""
    return {
        " ".join(what.split()): rest for what, _, rest in (line.partition(": ") for line in outcome.out.splitlines())
    }


@pytest.fixture
def arguments(executable: Executable, tmp_path: Path) -> tuple[object, ...]:
    """Returns arguments of `doctor` with which every check passes on this machine, unless a test breaks something."""
    free = "127.0.0.1:0"
    return ("--http", free, "--grpc", free, "--engine-python", executable(VLLM), "--data-dir", tmp_path / ".pointsman")


def test_an_invalid_example_fails_and_sets_the_exit_code(
    cli: Cli, arguments: tuple[object, ...], example_folder: Path
) -> None:
    (example_folder / "pointsman.yaml").write_text("base_model: smollm2-135m\nconfig: config\nport: 1\n")

    outcome = cli("doctor", example_folder, *arguments)

    assert outcome.code == 1
    assert "unknown key 'port'; known: base_model" in lines(outcome)["fail example"]
    assert outcome.err == ""


def test_a_configuration_is_checked_with_the_gateways_own_code(
    cli: Cli, arguments: tuple[object, ...], example_folder: Path
) -> None:
    outcome = cli("doctor", example_folder, *arguments)

    assert outcome.code == 1
    assert "ok example" in lines(outcome)
    assert "models.yaml" in lines(outcome)["fail config"]


def test_the_help_desks_configuration_is_valid(cli: Cli, arguments: tuple[object, ...], example_folder: Path) -> None:
    shipped = Path(__file__).parents[2] / "examples" / "helpdesk" / "config"
    (example_folder / "config").rmdir()
    (example_folder / "config").symlink_to(shipped)

    outcome = cli("doctor", example_folder, *arguments)

    assert "all well" in lines(outcome)["ok config"]


def test_the_missing_guarantees_of_discovered_adapters_are_reported(
    cli: Cli, arguments: tuple[object, ...], example_folder: Path
) -> None:
    config = ConfigFolder(example_folder / "config")
    config.models["engines"]["local"] = {"model": "tiny", "url": "http://127.0.0.1:1", "adapters": "discover"}
    config.write()

    found = lines(cli("doctor", example_folder, *arguments))

    assert found["warn config"].startswith(
        "engine 'local' discovers its adapters: the same name may come to mean other"
    )
    assert "all well" in found["ok config"]


def test_missing_models_and_stopped_services_are_not_failures(cli: Cli, arguments: tuple[object, ...]) -> None:
    outcome = cli("doctor", *arguments)

    found = lines(outcome)
    assert "`pointsman up` makes it" in found["warn base model"]
    assert "`pointsman up` makes it" in found["warn embedding model"]
    assert "start it with `pointsman up EXAMPLE_FOLDER`" in found["warn running"]
    assert found["ok valkey"].startswith("Valkey server v=")
    assert outcome.code == 0, outcome.out


def test_a_dead_or_hanging_service_fails_with_its_log(cli: Cli, arguments: tuple[object, ...], tmp_path: Path) -> None:
    data_dir = tmp_path / ".pointsman"
    data_dir.mkdir()
    silent = "127.0.0.1:1"
    processes = {
        "gateway": {"pid": 2**22 + 1, "address": silent, "log": "gateway.log"},  # above the highest pid there is
        "retriever": {"pid": os.getpid(), "address": silent, "log": "retriever.log"},
    }
    run = dict.fromkeys(("example", "http", "grpc", "retriever", "lora_server", "engine", "redis_url"), silent)
    metrics = dict.fromkeys(("gateway_metrics", "retriever_metrics", "lora_server_metrics"), silent)
    (data_dir / "run.json").write_text(json.dumps({"pid": os.getpid(), **run, **metrics, "processes": processes}))

    outcome = cli("doctor", *arguments)

    found = lines(outcome)
    assert outcome.code == 1
    assert found["fail gateway"] == "its process 4194305 is dead; its log is gateway.log"
    assert found["fail retriever"] == f"does not serve at {silent}; its log is retriever.log"
    assert "fail engine runs" in found


@pytest.mark.parametrize(
    ("problem", "level", "message"),
    [
        ("", Level.OK, "revision 0a1b"),
        (
            "tasks.yaml: unknown key 'tsaks'",
            Level.FAIL,
            "still the last good one, 0a1b: tasks.yaml: unknown key 'tsaks'",
        ),
    ],
)
async def test_a_rejected_configuration_edit_is_a_failure(problem: str, level: Level, message: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"revision": "0a1b", "problem": problem}).encode())

        def log_message(self, *words: object) -> None:
            """Disables the log."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Answer)) as url:
        finding = await check_configuration(url)

    assert (finding.level, finding.detail) == (level, message)


@pytest.mark.parametrize(
    ("key", "level", "message"),
    [
        ("pm-right", Level.OK, "revision 0a1b"),
        ("pm-wrong", Level.FAIL, "the gateway rejects this API key; `pointsman keys list` shows all"),
        ("", Level.WARN, "put an API key into POINTSMAN_API_KEY, or name its variable with --key-env"),
    ],
)
async def test_a_gateway_with_keys_on_is_asked_with_the_key(key: str, level: Level, message: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            self.send_response(200 if self.headers["authorization"] == "Bearer pm-right" else 401)
            self.end_headers()
            self.wfile.write(b'{"revision": "0a1b", "problem": ""}')

        def log_message(self, *words: object) -> None:
            """Disables the log."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Answer)) as url:
        finding = await check_configuration(url, key)

    assert finding.level is level
    assert message in finding.detail


@pytest.mark.parametrize(
    ("parser", "level", "detail"),
    [("hermes", Level.OK, "parser 'hermes'"), ("", Level.WARN, "set POINTSMAN_LORA_TOOL_CALL_PARSER")],
)
def test_an_engine_without_a_tool_call_parser_is_a_warning(parser: str, level: Level, detail: str) -> None:
    found = tool_calls_finding(lora_server_pb2.EngineState(base_model="tiny", tool_call_parser=parser))

    assert found.level is level
    assert detail in found.detail
