"""The smoke test's process uses a bounded share of one core while other processes need the cores."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from pointsman_lora_server.smoke.cpu_share import CpuShare, Crowding, cpu_seconds

SHARE, SECONDS = 0.2, 2.0
TOLERANCE = 0.1
"""A tick may be late on a busy machine."""
BUSY = "print(flush=True)\nwhile True: pass"


LOWER_PRIORITY = f"import os\nos.nice(1)\n{BUSY}"


def start(stack: ExitStack, program: str = BUSY) -> int:
    """Starts a program, waits until it has printed something, and returns its process id."""
    process = stack.enter_context(subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE))
    stack.callback(process.kill)
    assert process.stdout
    process.stdout.readline()
    return process.pid


@pytest.fixture
def busy() -> Iterator[int]:
    with ExitStack() as stack:
        yield start(stack)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def used(pid: int) -> float:
    seconds = cpu_seconds(pid)
    assert seconds is not None
    return seconds


async def enforce(share: CpuShare, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await share.enforce()


async def test_it_uses_its_share_and_no_more_while_others_need_the_cores(busy: int) -> None:
    before = used(busy)
    await enforce(CpuShare(busy, SHARE, lambda: True), SECONDS)
    assert 0 < used(busy) - before < SHARE * SECONDS + TOLERANCE
    assert state_of(busy) == "R"  # it continues when nobody bounds it any more


async def test_it_is_never_stopped_while_nobody_else_needs_the_cores(busy: int) -> None:
    states = set()
    enforcing = asyncio.create_task(enforce(CpuShare(busy, 0.01, lambda: False), 0.5))
    while not enforcing.done():
        states.add(state_of(busy))
        await asyncio.sleep(0.01)
    assert "T" not in states


async def test_a_share_of_a_whole_core_is_no_limit(busy: int) -> None:
    async with asyncio.timeout(5):
        await CpuShare(busy, 1.0, lambda: True).enforce()


async def test_it_ends_with_the_process() -> None:
    with ExitStack() as stack:
        pid = start(stack, "print(flush=True)")
        async with asyncio.timeout(10):
            await CpuShare(pid, SHARE, lambda: True).enforce()


@pytest.fixture
def one_core() -> Iterator[None]:
    """This process, and those that it starts, run on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("itself", [BUSY, LOWER_PRIORITY])
def test_other_processes_crowd_a_core(itself: str) -> None:
    with ExitStack() as stack:
        crowding = Crowding(start(stack, itself))
        for _ in range(9):
            start(stack)
        crowding.look()
        time.sleep(1.0)
        assert crowding.look()


@pytest.mark.usefixtures("one_core")
@pytest.mark.skipif(os.getpriority(os.PRIO_PROCESS, 0) > 0, reason="counts lower priorities if it has one itself")
@pytest.mark.parametrize("itself", [BUSY, LOWER_PRIORITY])
def test_processes_of_a_lower_priority_crowd_nobody(itself: str) -> None:
    with ExitStack() as stack:
        crowding = Crowding(start(stack, itself))
        for _ in range(9):
            start(stack, LOWER_PRIORITY)
        crowding.look()
        time.sleep(1.0)
        assert not crowding.look()
