"""`pointsman up` with a real Valkey; `fake_services.py` replaces the other services."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.data_dir import read_run
from pointsman_cli.processes import alive_processes, process_tree

Until = Callable[..., Any]
Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

UP = """
import sys
from pathlib import Path
from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import find_engine
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.example import load_example
from pointsman_cli.up.plan import choose_addresses
from pointsman_servicekit.process import Backoff
from pointsman_cli.up.command import run_up
from pointsman_cli.up.plan import Programs, make_plan
from pointsman_cli.up.startup import StartPlan, StartupOutput
from pointsman_cli.up.plan import server_binary
from rich.console import Console

folder, at, python = map(Path, sys.argv[1:])
loaded, data_dir = load_example(folder), DataDir.at(at)
engine = find_engine(data_dir, python)
addresses = choose_addresses("127.0.0.1:0", "127.0.0.1:0")
plan = make_plan(loaded, data_dir, addresses, Programs(python, server_binary(), str(python)))
setup = StartPlan(loaded, data_dir, engine, str(python), addresses, plan)
run_interruptibly(run_up(setup, StartupOutput(Console(width=400)), Backoff(first=0.05)))
"""


@pytest.fixture
def start(executable: Callable[[str], Path], example_folder: Path, tmp_path: Path) -> Start:
    python = executable((Path(__file__).parent / "fake_services.py").read_text())

    async def call(**environment: str) -> asyncio.subprocess.Process:
        with (tmp_path / "up.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", UP, str(example_folder), str(tmp_path / "home"), str(python)),
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    return call


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[], str]:
    return lambda: (tmp_path / "up.log").read_text()


async def test_services_start_are_filled_and_stop_in_order(
    start: Start, until: Until, shown: Callable[[], str], tmp_path: Path
) -> None:
    run_json = tmp_path / "home" / "run.json"
    up = await start()
    await until(lambda: run_json.exists() and "Stop with Ctrl-C" in shown(), "all is up")
    run = read_run(run_json)
    assert run is not None
    processes = process_tree(up.pid)

    assert run.pid == up.pid
    assert list(run.processes) == ["valkey", "retriever", "lora-server", "gateway"]
    assert {process.pid for process in run.processes.values()} < {process.pid for process in processes}
    assert "ingest handbook bicycles" in (tmp_path / "home" / "logs" / "retriever.log").read_text()
    for part in ("engine: loading the weights", "adapters: triage@3f9a1c0b77de (triage@prod)",
                 f"curl -i {run.http}/v1/", run.processes["gateway"].log, run.retriever):  # fmt: skip
        assert part in shown()

    for name in ("retriever", "lora-server", "gateway", "cli"):
        assert (tmp_path / "home" / "tokens" / name).stat().st_mode & 0o777 == 0o600

    up.send_signal(signal.SIGINT)

    assert await asyncio.wait_for(up.wait(), 30) == 0
    assert not run_json.exists()
    assert not alive_processes(processes)
    stopped = [line for line in shown().splitlines() if line.startswith("stopping")]
    assert stopped == ["stopping gateway", "stopping lora-server", "stopping retriever", "stopping valkey"]


async def test_a_dead_service_is_restarted_at_its_address_and_the_run_file_is_updated(
    start: Start, until: Until, shown: Callable[[], str], tmp_path: Path
) -> None:
    run_json = tmp_path / "home" / "run.json"
    up = await start()
    await until(run_json.exists, "all is up")
    before = read_run(run_json)
    assert before is not None

    os.kill(before.processes["gateway"].pid, signal.SIGKILL)
    await until(lambda: "gateway was started again" in shown(), "it is shown")
    await until(lambda: read_run(run_json) != before, "the run file has the new pid")

    after = read_run(run_json)
    assert after is not None
    assert after.processes["gateway"].address == before.processes["gateway"].address
    assert after.processes["retriever"] == before.processes["retriever"]
    assert "gateway died (killed by SIGKILL); starting it again in 0.05 s" in shown()
    up.terminate()
    assert await asyncio.wait_for(up.wait(), 30) == 0


async def test_kill_9_of_up_leaves_nothing_running(start: Start, until: Until, tmp_path: Path) -> None:
    up = await start()
    await until((tmp_path / "home" / "run.json").exists, "all is up")
    processes = process_tree(up.pid)
    assert len(processes) == 6, "up, its guard and four children"

    up.kill()
    await up.wait()

    await until(lambda: not alive_processes(processes), "all are gone")
    assert read_run(tmp_path / "home" / "run.json") is None


async def test_valkeys_data_survives_a_restart(start: Start, until: Until, tmp_path: Path) -> None:
    run_json = tmp_path / "home" / "run.json"
    for command, answer in ((b"SET points left\r\n", b"+OK\r\n"), (b"STRLEN points\r\n", b":4\r\n")):
        up = await start()
        await until(run_json.exists, "all is up")
        run = read_run(run_json)
        assert run is not None
        reader, writer = await asyncio.open_unix_connection(run.processes["valkey"].address)
        writer.write(command)
        assert await reader.readline() == answer
        writer.close()
        await writer.wait_closed()
        up.send_signal(signal.SIGINT)
        await asyncio.wait_for(up.wait(), 30)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("GATEWAY_FAILS", "gateway did not start (exit code 1: pointsman_gateway: paths.yaml: path 'faq' names prompt"),
        ("ENGINE_FAILS", "the engine does not start: vLLM: out of memory"),
    ],
)
async def test_if_a_service_does_not_start_up_stops_with_the_reason(
    start: Start, until: Until, shown: Callable[[], str], tmp_path: Path, broken: str, message: str
) -> None:
    up = await start(**{broken: "1"})

    assert await asyncio.wait_for(up.wait(), 60) == 1

    assert message in shown()
    assert "stopping valkey" in shown()
    assert not (tmp_path / "home" / "run.json").exists()


async def test_an_invalid_configuration_stops_up_before_anything_starts(
    start: Start, shown: Callable[[], str], tmp_path: Path
) -> None:
    up = await start(CHECK_FAILS="1")

    assert await asyncio.wait_for(up.wait(), 60) == 1

    assert "the configuration is not valid: models.yaml: unknown key 'embeddings.small.uptream'" in shown()
    assert not (tmp_path / "home" / "logs" / "valkey.log").exists()


async def test_a_document_that_is_not_ingested_stops_up_with_its_name(
    start: Start, shown: Callable[[], str], example_folder: Path
) -> None:
    (example_folder / "handbook" / "blank.md").write_text(" \n")
    up = await start()

    assert await asyncio.wait_for(up.wait(), 60) == 1

    assert "collection handbook: 1 documents were not ingested: blank is empty" in shown()


async def test_ctrl_c_while_starting_stops_the_started_services(
    start: Start, until: Until, shown: Callable[[], str]
) -> None:
    up = await start()
    await until(lambda: "retriever ..." in shown(), "the services are starting")
    processes = process_tree(up.pid)

    up.send_signal(signal.SIGINT)

    assert await asyncio.wait_for(up.wait(), 30) == 1  # the interruption, which this script does not catch
    assert "Interrupted: interrupted (SIGINT)" in shown()
    assert not alive_processes(processes)
