"""Starting the engine as a child process: its command line and environment, its restarts, and that no process outlives
it.
"""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pointsman_lora_server.engine import child_launcher
from pointsman_lora_server.engine.command import (
    GUARD_FOLDER,
    SECRET_VARIABLE,
    EngineCommand,
    EngineSettings,
    GuardSecret,
    build_command,
    choose_dtype,
    format_cores,
    with_secrets,
)
from pointsman_lora_server.engine.process import EngineProcess
from pointsman_lora_server.settings import Settings

# Like vLLM, it has a child that does not notice its parent's death. Both process ids are printed.
PARENT_AND_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("pids", os.getpid(), child.pid, flush=True)
{then}
"""

PIDS = re.compile(r"pids (\d+) (\d+)")


def command(then: str) -> EngineCommand:
    return EngineCommand((sys.executable, "-c", PARENT_AND_CHILD.format(then=then)), os.environ)


async def start(caplog: pytest.LogCaptureFixture, then: str) -> tuple[EngineProcess, int, int]:
    caplog.set_level(logging.INFO)
    process = await EngineProcess.start(command(then))
    await until(lambda: bool(PIDS.search(caplog.text)))
    found = PIDS.search(caplog.text)
    assert found
    return process, int(found[1]), int(found[2])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- what happens happens in other processes
            await asyncio.sleep(0.01)


async def until_gone(*pids: int) -> None:
    await until(lambda: not any(_lives(pid) for pid in pids))


async def test_its_output_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    process, _, _ = await start(caplog, "print('ValueError: no such model'); print('goodbye'); sys.exit(3)")

    assert await process.wait() == 3
    assert process.last_error_line() == "ValueError: no such model"
    assert "goodbye" in caplog.text


async def test_its_exit_is_noticed_at_once_and_stops_its_children(caplog: pytest.LogCaptureFixture) -> None:
    process, engine, child = await start(caplog, "time.sleep(60)")

    os.kill(engine, signal.SIGKILL)

    async with asyncio.timeout(5):  # the child keeps its output open for 60 s
        assert await process.wait() == 128 + signal.SIGKILL
    await until_gone(child)


async def test_it_may_exit_gracefully(caplog: pytest.LogCaptureFixture) -> None:
    then = (
        "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('set', flush=True); time.sleep(60)"
    )
    process, engine, child = await start(caplog, then)
    await until(lambda: "set" in caplog.messages)  # a separate line; the logged command contains it, too

    assert await process.stop() == 7
    await until_gone(engine, child)


async def test_a_process_that_does_not_exit_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    then = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('set', flush=True); time.sleep(60)"
    process, engine, child = await start(caplog, then)
    await until(lambda: "set" in caplog.messages)  # a separate line; the logged command contains it, too

    await process.stop(timeout_seconds=0.1)

    await until_gone(engine, child)


@pytest.fixture
def held() -> Iterator[tuple[int, int, int, int]]:
    """Yields process ids: of a parent process other than the test's, of its supervisor, of the engine, and of the
    engine's child.
    """
    engine_code = PARENT_AND_CHILD.format(then="time.sleep(60)")
    holder_code = (
        "import subprocess, sys, time\n"
        f"held = subprocess.Popen([sys.executable, {child_launcher.__file__!r}, sys.executable, "
        f"'-c', {engine_code!r}],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)\n"
        "print(held.pid, *held.stdout.readline().split()[1:], flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", holder_code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    supervisor_pid, engine, child = (int(pid) for pid in holder.stdout.readline().split())
    yield holder.pid, supervisor_pid, engine, child
    holder.kill()
    holder.communicate()
    with suppress(ProcessLookupError):
        os.killpg(supervisor_pid, signal.SIGKILL)


async def test_it_does_not_outlive_its_parent(held: tuple[int, int, int, int]) -> None:
    holder, supervisor_pid, engine, child = held

    os.kill(holder, signal.SIGKILL)

    await until_gone(supervisor_pid, engine, child)


async def test_it_does_not_outlive_its_supervisor(held: tuple[int, int, int, int]) -> None:
    _, supervisor_pid, engine, _ = held

    os.kill(supervisor_pid, signal.SIGKILL)

    await until_gone(engine)


async def test_a_missing_program_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    process = await EngineProcess.start(EngineCommand(("/no/such/python",), os.environ))

    assert await process.wait() == 127
    assert "/no/such/python" in process.last_error_line()


def settings(**changes: object) -> EngineSettings:
    values = {
        "python": Path("/engine/bin/python"),
        "listen": "127.0.0.1:8101",
        "base_model": Path("/models/tiny"),
        "served_model_name": "tiny-base",
        "held": 64,
        "max_loras": 4,
        "max_lora_rank": 8,
        "max_model_len": 4096,
    }
    return EngineSettings(**(values | changes))  # type: ignore[arg-type]  # a table of keywords


def option(made: EngineCommand, name: str) -> str:
    return made.arguments[made.arguments.index(name) + 1]


def test_vllm_gets_the_settings() -> None:
    made = build_command(settings(extra_arguments="--tensor-parallel-size 2"), {"PATH": "/bin"}, {0, 1})

    assert made.arguments[:3] == ("/engine/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    assert [option(made, name) for name in ("--host", "--port", "--max-loras", "--max-model-len")] == [
        *("127.0.0.1", "8101", "4", "4096")
    ]
    assert option(made, "--tensor-parallel-size") == "2"
    assert int(option(made, "--shutdown-timeout")) > 0  # by default vLLM aborts answers
    assert made.environment["PATH"] == "/bin"
    assert made.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"


def test_vllm_gets_an_ipv6_address_without_brackets() -> None:
    made = build_command(settings(listen="[fd00::5]:8101"), {"PATH": "/bin"}, {0})
    assert [option(made, name) for name in ("--host", "--port")] == ["fd00::5", "8101"]
    assert Settings(engine_listen="[fd00::5]:8101").public_url == "http://[fd00::5]:8101"


@pytest.mark.parametrize(
    ("flags", "has_gpu", "dtype"),
    [
        ({"avx2"}, False, "float32"),
        ({"avx2", "avx512f"}, False, "float32"),
        ({"avx512f", "avx512_bf16"}, False, "bfloat16"),
        ({"asimd", "bf16"}, False, "bfloat16"),
        (set(), True, "auto"),
    ],
)
def test_the_number_type_is_the_one_that_the_processor_multiplies_fast(
    flags: set[str], has_gpu: bool, dtype: str
) -> None:
    assert choose_dtype("auto", flags, has_gpu) == dtype
    assert choose_dtype("float16", flags, has_gpu) == "float16"
    assert option(build_command(settings(dtype=dtype), {}, {0}), "--dtype") == dtype


def test_an_unsupported_rank_is_rounded_up() -> None:
    assert option(build_command(settings(max_lora_rank=12), {}, {0}), "--max-lora-rank") == "16"


def test_the_operators_vllm_variables_are_passed_and_secrets_are_not() -> None:
    ours = {"VLLM_CPU_KVCACHE_SPACE": "16", "POINTSMAN_LORA_REDIS_URL": "redis://:secret@host", "VIRTUAL_ENV": "/ours"}

    made = build_command(settings(), ours, {0})

    assert made.environment["VLLM_CPU_KVCACHE_SPACE"] == "16"
    assert not {"POINTSMAN_LORA_REDIS_URL", "VIRTUAL_ENV"} & set(made.environment)


def test_the_guard_is_told_what_to_do_with_an_unknown_vllm() -> None:
    variable = "POINTSMAN_ENGINE_UNKNOWN_VERSION"

    assert build_command(settings(), {variable: "warn"}, {0}).environment[variable] == "warn"


def test_the_guard_gets_its_secret_without_a_command_line_argument() -> None:
    secret = GuardSecret()
    made = with_secrets(build_command(settings(), {"PYTHONPATH": "/ours"}, {0}), secret)()

    assert option(made, "--middleware") == "pointsman_engine_guard.Guard"
    assert (Path(made.environment["PYTHONPATH"]) / "pointsman_engine_guard" / "__init__.py").is_file()
    assert made.environment[SECRET_VARIABLE] == secret()
    assert secret() not in " ".join(made.arguments)


def test_the_guard_imports_only_packages_of_the_engines_environment() -> None:
    import_it = (
        f"import os; os.environ['{SECRET_VARIABLE}'] = 'x' * 16; import pointsman_engine_guard as g; "
        "g.Guard(None, version=lambda: '0.32.0')"
    )
    command = [sys.executable, "-S", "-c", import_it]  # -S: no site-packages, so neither ours nor vLLM

    subprocess.run(command, env={"PYTHONPATH": str(GUARD_FOLDER)}, check=True, timeout=30)


def test_vllm_holds_more_adapters_than_a_batch_can_use() -> None:
    made = build_command(settings(held=48, max_loras=6), {}, {0})

    assert (option(made, "--max-loras"), option(made, "--max-cpu-loras")) == ("6", "48")


@pytest.mark.parametrize(
    "opening",
    [
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_LORA_RESOLVER_CACHE_DIR",
        "VLLM_LORA_RESOLVER_HF_REPO_LIST",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_SKIP_MODEL_NAME_VALIDATION",
    ],
)
def test_variables_that_would_open_it_are_removed(opening: str) -> None:
    assert opening not in build_command(settings(), {opening: "1"}, {0}).environment


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("--middleware evil.Middleware", "must be the guard alone"),
        ("--middl evil.Middleware", "must be the guard alone"),
        ("--lora-modules a=/somewhere", "nothing has checked"),
        ("--max_loras=9", "has a setting"),
        ("--max-cpu-loras 9", "has a setting"),
        ("--lora-config.max_cpu_loras 9", "must be the lora-server's"),
        ("--api-server-count 2", "all API servers but one"),
        ("-asc 2", "all API servers but one"),
        ("--api-key sk-1", "VLLM_API_KEY"),
        ("--config more.yaml", "can carry any of the others"),
        ("--port 80", "has a setting"),
        ("--tool-call-parser hermes", "has a setting"),
        ("--enable-auto-tool-choice", "if there is a tool-call parser"),
    ],
)
def test_arguments_that_conflict_with_the_lora_server_are_rejected(more: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"POINTSMAN_LORA_ENGINE_ARGS: '.*' cannot be given") as caught:
        build_command(settings(extra_arguments=more), {}, {0})

    assert why in str(caught.value)


@pytest.mark.parametrize("more", ["--config-format mistral", "--enforce-eager", "-tp 2", "--model-impl transformers"])
def test_other_arguments_are_passed(more: str) -> None:
    made = build_command(settings(extra_arguments=more), {}, {0})

    assert made.arguments[-len(more.split()) :] == tuple(more.split())


def test_vllm_gets_the_trace_endpoint_and_protocol() -> None:
    made = build_command(
        settings(traces_url="http://agent:4318/v1/traces"), {"OTEL_EXPORTER_OTLP_HEADERS": "key=x"}, {0}
    )

    assert option(made, "--otlp-traces-endpoint") == "http://agent:4318/v1/traces"
    assert made.environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert made.environment["OTEL_EXPORTER_OTLP_HEADERS"] == "key=x"
    assert made.environment["OTEL_SERVICE_NAME"] == "vllm"
    assert made.traced


def test_the_operators_service_name_for_spans_is_kept() -> None:
    environment = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=engines,zone=a"}
    assert "OTEL_SERVICE_NAME" not in build_command(settings(traces_url="http://agent"), environment, {0}).environment


def test_vllm_sends_no_spans_if_tracing_is_disabled() -> None:
    made = build_command(settings(), {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://agent/v1/traces"}, {0})

    assert "--otlp-traces-endpoint" not in made.arguments
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" not in made.environment
    assert not made.traced


@pytest.mark.parametrize("more", ["--otlp-traces-endpoint http://own:4317", "--otlp_traces=http://own:4317"])
def test_explicit_trace_arguments_of_vllm_replace_all_others(more: str) -> None:
    made = build_command(settings(traces_url="http://agent/v1/traces", extra_arguments=more), {}, {0})

    assert "http://agent/v1/traces" not in made.arguments
    assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" not in made.environment
    assert made.traced


def test_json_is_compact_unless_the_operator_configures_structured_outputs() -> None:
    by_default = build_command(settings(), {}, {0})
    configured = build_command(settings(extra_arguments="--structured_outputs-config.backend=xgrammar"), {}, {0})

    by_default_config = json.loads(option(by_default, "--structured-outputs-config"))
    assert by_default_config["disable_any_whitespace"] is True
    assert by_default_config["backend"] == "xgrammar"  # guidance rejects every request with tools
    assert "--structured-outputs-config" not in configured.arguments
    assert configured.arguments[-1] == "--structured_outputs-config.backend=xgrammar"


@pytest.mark.parametrize(
    ("cores", "text"), [({0, 1}, "0-1"), ({3}, "3"), ({0, 1, 2, 5}, "0-2,5"), ({7, 2, 4}, "2,4,7")]
)
def test_cores_are_in_vllms_format(cores: set[int], text: str) -> None:
    assert format_cores(cores) == text


def _lives(pid: int) -> bool:
    """Returns whether the process runs; a zombie counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
