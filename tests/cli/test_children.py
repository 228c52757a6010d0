import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.errors import CommandError
from pointsman_cli.processes import alive_processes, process_tree
from pointsman_cli.up.plan import Service
from pointsman_cli.up.supervisor import Child, Supervisor
from pointsman_servicekit.process import Backoff

MakeService = Callable[..., Service]
Until = Callable[..., Any]

RUNS = "import time; print('up', flush=True)\nwhile True: time.sleep(0.02)"
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + RUNS
DIES = "import sys; sys.exit('the configuration has no paths')"
AT_ONCE = Backoff(first=0.01, longest=0.02)


def ignore(_: object) -> None:
    pass


async def test_a_dead_child_is_restarted_and_that_is_logged(python_service: MakeService, until: Until) -> None:
    received: list[str] = []
    child = Child(python_service(RUNS))
    await child.start()
    pids = [child.pid]
    keeping = asyncio.create_task(child.keep_running(received.append, AT_ONCE))

    for deaths in (1, 2, 3):
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda deaths=deaths: len(received) == 2 * deaths, f"{deaths} deaths and as many starts said")
        pids.append(child.pid)

    assert received[0] == "tiny died (killed by SIGKILL); starting it again in 0.01 s"
    assert received[1] == f"tiny was started again (pid {pids[1]})"
    assert len(set(pids)) == 4
    keeping.cancel()
    await child.stop()


def test_the_restart_delay_grows_until_a_child_runs_long_enough() -> None:
    backoff = Backoff(first=0.5, longest=4, calm=60)
    delays, delay = [], 0.0
    for lived in (100, 1, 1, 1, 1, 1, 61):
        delay = backoff.after(delay, lived)
        delays.append(delay)

    assert delays == [0.5, 1, 2, 4, 4, 4, 0.5]


async def test_stopping_sends_sigterm_first(python_service: MakeService, until: Until, tmp_path: Path) -> None:
    left = tmp_path / "left"
    leave = (
        "import signal, sys; from pathlib import Path; "
        f"signal.signal(signal.SIGTERM, lambda *_: (Path({str(left)!r}).touch(), sys.exit())); "
    )
    service = python_service(leave + RUNS)
    child = Child(service)
    await child.start()
    await until(lambda: "up" in service.log.read_text(), "it is up")

    await child.stop()

    assert left.exists()


async def test_a_child_that_ignores_sigterm_is_killed_after_the_timeout(
    python_service: MakeService, until: Until
) -> None:
    service = python_service(IGNORES_SIGTERM, grace=0.2)
    child = Child(service)
    await child.start()
    await until(lambda: "up" in service.log.read_text(), "it is up")
    began = time.monotonic()

    await child.stop()

    assert time.monotonic() - began < 5
    assert await child.ended() == "killed by SIGKILL"


async def test_a_childs_own_children_are_killed_with_it(
    python_service: MakeService, until: Until, tmp_path: Path
) -> None:
    below = tmp_path / "below.pid"
    starts_another = (
        "import subprocess, sys; from pathlib import Path; "
        f"other = subprocess.Popen([sys.executable, '-I', '-c', {IGNORES_SIGTERM!r}], start_new_session=True); "
        f"Path({str(below)!r}).write_text(str(other.pid)); {RUNS}"
    )
    service = python_service(starts_another)
    child = Child(service)
    await child.start()
    await until(lambda: service.log.exists() and service.log.read_text().count("up") == 2, "both are up")
    tree = process_tree(int(below.read_text()))
    assert alive_processes(tree)

    await child.stop()

    await until(lambda: not alive_processes(tree), "the process below is gone")


async def test_if_a_child_dies_while_starting_the_error_has_its_last_output(python_service: MakeService) -> None:
    supervisor = Supervisor()
    service = python_service(DIES, name="gateway")
    await supervisor.start(service)

    with pytest.raises(CommandError) as failed:
        await supervisor.unless_one_dies(asyncio.sleep(60))

    assert str(failed.value) == (
        f"gateway did not start (exit code 1: the configuration has no paths); its log is {service.log}"
    )
    await supervisor.stop(ignore)


async def test_a_missing_program_is_named_in_the_log(python_service: MakeService, tmp_path: Path) -> None:
    supervisor = Supervisor()
    await supervisor.start(Service("valkey", ("/no/such/valkey",), {}, "", tmp_path / "valkey.log", 1))

    with pytest.raises(CommandError, match="cannot run /no/such/valkey: No such file or directory"):
        await supervisor.unless_one_dies(asyncio.sleep(60))
    await supervisor.stop(ignore)


async def test_work_that_ends_before_any_child_dies_returns_its_result(python_service: MakeService) -> None:
    supervisor = Supervisor()
    await supervisor.start(python_service(RUNS))

    assert await supervisor.unless_one_dies(asyncio.sleep(0, "ready")) == "ready"
    await supervisor.stop(ignore)


async def test_children_are_stopped_in_the_reverse_order(python_service: MakeService) -> None:
    supervisor = Supervisor()
    for name in ("valkey", "retriever", "gateway"):
        await supervisor.start(python_service(RUNS, name=name))
    received: list[str] = []

    await supervisor.stop(received.append)

    assert received == ["stopping gateway", "stopping retriever", "stopping valkey"]


async def test_all_children_are_stopped_even_if_stopping_is_interrupted(
    python_service: MakeService, until: Until
) -> None:
    supervisor = Supervisor()
    services = [python_service(IGNORES_SIGTERM, name=name, grace=60) for name in ("retriever", "gateway")]
    for service in services:
        await supervisor.start(service)
    await until(lambda: all("up" in service.log.read_text() for service in services), "both are up")
    children = list(supervisor.children)
    trees = [process_tree(child.pid) for child in children]
    received: list[str] = []
    stopping = asyncio.create_task(supervisor.stop(received.append))
    await until(lambda: received == ["stopping gateway"], "it is stopping the first")

    stopping.cancel()
    await until(lambda: received == ["stopping gateway", "stopping retriever"], "it is stopping the second")
    stopping.cancel()
    await asyncio.wait({stopping})

    await until(lambda: not any(alive_processes(tree) for tree in trees), "both are gone")
    assert [await child.ended() for child in children] == ["killed by SIGKILL"] * 2
