"""`pointsman up --monitoring` with the real Prometheus; `fake_services.py` replaces the services."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pointsman_cli.data_dir import DataDir, Run, read_run
from pointsman_cli.doctor.machine import ok
from pointsman_cli.doctor.running import check_running
from pointsman_cli.processes import alive_processes, process_tree
from pointsman_cli.up.plan import Addresses
from pointsman_cli.up.prometheus import RULES, wait_for_prometheus, write_configuration

Cli = Callable[..., Any]
Until = Callable[..., Any]
Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

ADDRESSES = Addresses("127.0.0.1:8080", "127.0.0.1:8081", *(f"127.0.0.1:{port}" for port in range(9001, 9006)))

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus's own server")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus's promtool")

UP = """
import sys
from dataclasses import replace
from pathlib import Path
from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import find_engine
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.example import load_example
from pointsman_cli.up.plan import choose_addresses, hold_port
from pointsman_servicekit.process import Backoff
from pointsman_cli.up.command import run_up
from pointsman_cli.up.plan import Programs, make_plan
from pointsman_cli.up.startup import StartPlan, StartupOutput
from pointsman_cli.up.prometheus import find_program, make_service
from pointsman_cli.up.plan import server_binary
from rich.console import Console

folder, at, python = map(Path, sys.argv[1:])
loaded, data_dir = load_example(folder), DataDir.at(at)
engine = find_engine(data_dir, python)
with hold_port("127.0.0.1:0", "--prometheus-port") as beside:
    addresses = choose_addresses("127.0.0.1:0", "127.0.0.1:0")
plan = make_plan(loaded, data_dir, addresses, Programs(python, server_binary(), str(python)))
plan = replace(plan, prometheus=make_service(find_program(), beside, data_dir))
setup = StartPlan(loaded, data_dir, engine, str(python), addresses, plan)
run_interruptibly(run_up(setup, StartupOutput(Console(width=200)), Backoff(first=0.05)))
"""

METRICS = """
import os, sys
import prometheus_client
listens = {"pointsman_retriever": "POINTSMAN_RETRIEVER", "pointsman_lora_server": "POINTSMAN_LORA"}
if sys.argv[2] in listens:
    host, _, port = os.environ[f"{listens[sys.argv[2]]}_METRICS_LISTEN"].rpartition(":")
    prometheus_client.Gauge("stands_for", "-").set(1)
    prometheus_client.start_http_server(int(port), addr=host)
"""


@pytest.fixture
async def start(executable: Callable[[str], Path], example_folder: Path, tmp_path: Path) -> AsyncIterator[Start]:
    python = executable(METRICS + (Path(__file__).parent / "fake_services.py").read_text())
    started: list[asyncio.subprocess.Process] = []

    async def call() -> asyncio.subprocess.Process:
        with (tmp_path / "up.log").open("wb") as log:
            arguments = (str(example_folder), str(tmp_path / "home"), str(python))
            up = await asyncio.create_subprocess_exec(sys.executable, "-c", UP, *arguments, stdout=log, stderr=log)
        started.append(up)
        return up

    yield call
    for up in started:
        if up.returncode is None:
            up.kill()
            await up.wait()


@pytest.fixture
def running(until: Until, tmp_path: Path) -> Callable[[], Awaitable[Run]]:
    """Returns a function that waits until all services run."""
    run_json, log = tmp_path / "home" / "run.json", tmp_path / "up.log"

    async def wait() -> Run:
        await until(lambda: run_json.exists() and "Stop with Ctrl-C" in log.read_text(), "all is up")
        run = read_run(run_json)
        assert run is not None
        return run

    return wait


async def until_it_says(address: str, query: str, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Waits until a query's answer (values by job) satisfies `holds`, and returns the answer."""
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
        while True:
            body = (await client.get(f"http://{address}/api/v1/query", params={"query": query})).json()
            values = {each["metric"]["job"]: float(each["value"][1]) for each in body["data"]["result"]}
            if holds(values):
                return values
            await asyncio.sleep(0.05)


@needs_prometheus
async def test_prometheus_scrapes_the_services_and_stops_first(
    start: Start, running: Callable[[], Awaitable[Run]], tmp_path: Path
) -> None:
    up = await start()
    run = await running()
    processes = process_tree(up.pid)
    prometheus = run.processes["prometheus"]

    up_by_job = await until_it_says(
        prometheus.address,
        "up",
        lambda found: len(found) == 4 and found["pointsman-retriever"] == found["pointsman-lora-server"] == 1,
    )
    stands_for = await until_it_says(prometheus.address, "stands_for", lambda found: len(found) == 2)

    assert up_by_job == {
        "pointsman-gateway": 0,
        "pointsman-retriever": 1,
        "pointsman-lora-server": 1,
        "pointsman-engine": 0,
    }
    assert stands_for == {"pointsman-retriever": 1, "pointsman-lora-server": 1}
    assert prometheus.address.startswith("127.0.0.1:")
    assert prometheus.pid in {process.pid for process in processes}
    assert (tmp_path / "home" / "prometheus" / "data" / "wal").is_dir()
    assert f"Prometheus: http://{prometheus.address}" in (tmp_path / "up.log").read_text()
    async with httpx.AsyncClient(base_url=f"http://{prometheus.address}", trust_env=False) as client:
        groups = (await client.get("/api/v1/rules")).json()["data"]["groups"]
        flags = (await client.get("/api/v1/status/flags")).json()["data"]
    assert {"pointsman-requests", "pointsman-money", "pointsman-objectives"} <= {group["name"] for group in groups}
    assert (flags["storage.tsdb.retention.time"], flags["storage.tsdb.retention.size"]) == ("1w", "1GiB")
    assert ok("prometheus", f"answers at http://{prometheus.address}") in await check_running(run)
    assert flags["web.enable-admin-api"] == flags["web.enable-lifecycle"] == "false"

    up.send_signal(signal.SIGINT)

    assert await asyncio.wait_for(up.wait(), 30) == 0
    assert not alive_processes(processes)
    stopped = [line for line in (tmp_path / "up.log").read_text().splitlines() if line.startswith("stopping")]
    assert stopped[:2] == ["stopping prometheus", "stopping gateway"]


@needs_prometheus
async def test_a_dead_prometheus_is_restarted_and_none_outlives_up(
    start: Start, running: Callable[[], Awaitable[Run]], until: Until, tmp_path: Path
) -> None:
    up = await start()
    before = await running()

    os.kill(before.processes["prometheus"].pid, signal.SIGKILL)
    await until(lambda: "prometheus was started again" in (tmp_path / "up.log").read_text(), "it is started again")
    await until(lambda: read_run(tmp_path / "home" / "run.json") != before, "the run file has the new pid")
    after = await running()
    assert after.processes["prometheus"].address == before.processes["prometheus"].address
    await wait_for_prometheus(after.processes["prometheus"].address)
    processes = process_tree(up.pid)
    assert after.processes["prometheus"].pid in {process.pid for process in processes}

    up.kill()
    await up.wait()

    await until(lambda: not alive_processes(processes), "all are gone")


@needs_promtool
@pytest.mark.parametrize("rules", [RULES, Path("/there/are/none")])
def test_the_configuration_is_valid_and_its_rules_are_found(tmp_path: Path, rules: Path) -> None:
    write_configuration(DataDir.at(tmp_path), ADDRESSES, rules)

    file = tmp_path / "prometheus" / "prometheus.yml"
    checked = subprocess.run(["promtool", "check", "config", "--lint=none", file], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    found = checked.stdout.count("rules found")
    assert found == len(list(rules.glob("*.yml")))
    assert (found > 0) == rules.is_dir()


def test_each_service_is_scraped_at_its_address_under_the_job_names_of_the_rules(tmp_path: Path) -> None:
    write_configuration(DataDir.at(tmp_path), ADDRESSES)

    written = yaml.safe_load((tmp_path / "prometheus" / "prometheus.yml").read_text())

    jobs = {each["job_name"]: each["static_configs"][0]["targets"] for each in written["scrape_configs"]}
    assert jobs == {
        "pointsman-gateway": [ADDRESSES.http],
        "pointsman-retriever": [ADDRESSES.retriever_metrics],
        "pointsman-lora-server": [ADDRESSES.lora_server_metrics],
        "pointsman-engine": [ADDRESSES.engine],
    }
    stock = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    assert jobs.keys() == {each["job_name"] for each in stock["scrape_configs"]}


@needs_promtool
def test_rules_are_found_in_a_folder_with_a_strange_name(tmp_path: Path) -> None:
    rules = tmp_path / "all [of] them?" / "rules"
    rules.mkdir(parents=True)
    shutil.copy(RULES / "requests.yml", rules)
    write_configuration(DataDir.at(tmp_path), ADDRESSES, rules)

    file = tmp_path / "prometheus" / "prometheus.yml"
    checked = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True)

    assert (checked.returncode, checked.stdout.count("rules found")) == (0, 1), checked.stdout + checked.stderr


@pytest.fixture
def up(cli: Cli, example_folder: Path, executable: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    options = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--engine-python", executable(""))
    return lambda *more: cli("up", example_folder, *options, "--data-dir", tmp_path / "home", "--monitoring", *more)


def test_without_prometheus_nothing_starts_and_the_error_says_where_to_get_it(
    up: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    shown = up()

    assert shown.code == 2
    assert "no `prometheus` is on the PATH; get it with `apt-get install prometheus`" in shown.err
    assert not (tmp_path / "home" / "run.json").exists()


def test_a_port_in_use_is_named_with_the_option_that_changes_it(
    up: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "prometheus").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        shown = up("--prometheus-port", port)

    assert shown.code == 2
    assert f"port {port} is taken by another program; choose another with --prometheus-port" in shown.err
