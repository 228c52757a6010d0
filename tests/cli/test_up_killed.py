"""No process is left if `pointsman up` is killed."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.errors import UsageError
from pointsman_cli.processes import Process, alive_processes, kill_processes, process_tree
from pointsman_cli.up.plan import Service
from pointsman_cli.up.supervisor import Supervisor, reaper_running

Until = Callable[..., Any]

# A child that ignores SIGTERM, with a child of its own in another session.
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:] == ["below"]:
    print("all is up", flush=True)
else:
    subprocess.Popen([sys.executable, "-I", __file__, "below"], start_new_session=True)
signal.pause()
"""

UP = """
import asyncio, sys, time
from pathlib import Path
from pointsman_cli.up.supervisor import Supervisor, reaper_running
from pointsman_cli.up.plan import Service

async def main():
    home, child = map(Path, sys.argv[1:3])
    async with reaper_running(home / "up.lock", grace=float(sys.argv[3])) as guard:
        supervisor = Supervisor(guard)
        for name in ("first", "second"):
            if name in sys.argv[4:]:
                asyncio.get_running_loop().call_soon(time.sleep, 600)  # once it is there, nothing more is done
            await supervisor.start(Service(name, (sys.executable, "-I", str(child)), {}, "", home / f"{name}.log", 60))
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_up(
    data_dir: Path, child: Path, grace: float, until: Until, hangs_at: str = ""
) -> asyncio.subprocess.Process:
    """Starts `up` with two children, and returns once all processes run."""
    up = await asyncio.create_subprocess_exec(sys.executable, "-c", UP, str(data_dir), str(child), str(grace), hangs_at)
    logs = [data_dir / "first.log", data_dir / "second.log"]
    await until(lambda: all(log.exists() and "all is up" in log.read_text() for log in logs), "all children are up")
    return up


@pytest.mark.parametrize("hangs_at", ["", "second"])
async def test_kill_9_leaves_no_process_behind(tmp_path: Path, until: Until, hangs_at: str) -> None:
    child = tmp_path / "child.py"
    child.write_text(STUBBORN)
    up = await start_up(tmp_path, child, grace=0.3, until=until, hangs_at=hangs_at)
    processes = process_tree(up.pid)
    assert len(processes) == 6, "up, its guard, two children and two below them"

    up.kill()
    await up.wait()

    await until(lambda: not alive_processes(processes), "all are gone")


async def test_a_child_stops_immediately_if_up_is_killed(tmp_path: Path, until: Until) -> None:
    child = tmp_path / "child.py"
    child.write_text("import signal; print('all is up', flush=True); signal.pause()")
    up = await start_up(tmp_path, child, grace=600, until=until)
    processes = process_tree(up.pid)

    up.kill()
    await up.wait()

    await until(lambda: not alive_processes(processes), "all are gone")


async def test_a_second_up_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "up.lock"
    async with reaper_running(lock):
        with pytest.raises(UsageError, match=rf"already running \(pid {lock.read_text()}\); stop it with Ctrl-C"):
            async with reaper_running(lock):
                pass


async def test_the_lock_is_released_at_the_end(tmp_path: Path) -> None:
    for _ in range(2):
        async with reaper_running(tmp_path / "up.lock"):
            pass


async def test_the_lock_is_held_until_the_last_process_of_a_killed_up_is_gone(tmp_path: Path, until: Until) -> None:
    child = tmp_path / "child.py"
    child.write_text(STUBBORN)
    up = await start_up(tmp_path, child, grace=600, until=until)
    processes = process_tree(up.pid)
    up.kill()
    await up.wait()

    with pytest.raises(UsageError, match="its processes are still stopping"):
        async with reaper_running(tmp_path / "up.lock"):
            pass

    kill_processes(processes)
    await until(lambda: not alive_processes(processes), "all are gone")
    async with reaper_running(tmp_path / "up.lock"):
        pass


async def test_children_are_started_without_the_guard_process(tmp_path: Path, until: Until) -> None:
    async with reaper_running(tmp_path / "up.lock") as guard:
        (its,) = (process for process in process_tree(os.getpid()) if _is_guard(process))
        os.kill(its.pid, signal.SIGKILL)
        await until(lambda: not alive_processes([its]), "the guard is gone")
        supervisor = Supervisor(guard)
        log = tmp_path / "only.log"
        await supervisor.start(Service("only", (sys.executable, "-I", "-c", "print('up')"), {}, "", log, 60))
        await until(lambda: log.read_text() == "up\n", "the child has run")
        await supervisor.stop(lambda _: None)


def _is_guard(process: Process) -> bool:
    try:
        return b"pointsman_cli.up.reaper" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False
