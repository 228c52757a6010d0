"""Measures what one input costs the gateway's process: CPU time and resident memory, never elapsed time."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_load import loop_tracer
from tests.security.measuring import MIB, cpu_seconds_to_receive, loop_cpu_seconds, memory_mib

HOPELESS_MS = 500.0
"""An attempt that takes this many milliseconds is not repeated."""
IDLE_NAPS, IDLE_NAP_SECONDS = 10, 1.0
WRITTEN_SECONDS = 300.0
LOOK_SECONDS = 0.01
"""Interval at which to check whether the file of iterations exists."""
KEYED_STEP_MS, KEYED_TIMES_OWN_SIZE, KEYED_BEYOND_MIB = 50.0, 3.0, 64.0
KEYLESS_MS, KEYLESS_MIB = 5.0, 1.0
MIN_MIB = 1.0
"""The smallest memory bound in MiB: the allocator takes memory in steps."""

Attempt = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Use:
    """The resources of one attempt: CPU time of the event loop, and the increase of memory."""

    total_ms: float
    peak_mib: float


@dataclass(frozen=True)
class Step:
    """The iteration of the event loop with the most CPU time, and the function in which it spent it."""

    ms: float
    cause: str = ""


@dataclass(frozen=True)
class Cost:
    name: str
    is_keyed: bool
    size_mib: float
    use: Use
    step: Step
    receive_ms: float = 0.0
    """Milliseconds that this machine needs, at its present load, to receive the same number of bytes and do nothing
    with them."""

    @property
    def ms(self) -> float:
        """The CPU time that has a bound: of the longest step, or, without a key, of the whole request."""
        return min(self.step.ms, self.use.total_ms) if self.is_keyed else self.use.total_ms

    @property
    def max_ms(self) -> float:
        return KEYED_STEP_MS if self.is_keyed else max(KEYLESS_MS, 3 * self.receive_ms + 2)

    @property
    def max_mib(self) -> float:
        if not self.is_keyed:
            return KEYLESS_MIB
        return max(MIN_MIB, min(KEYED_TIMES_OWN_SIZE * self.size_mib, self.size_mib + KEYED_BEYOND_MIB))

    @property
    def ratio(self) -> float:
        """The cost as a share of its bound, for the tighter of both bounds; above 1 the bound is exceeded."""
        return max(self.ms / self.max_ms, self.use.peak_mib / self.max_mib)


async def measure_idle(pid: int) -> float:
    """Returns the share of a processor that the event loop needs for its own periodic work: the smallest of several
    measurements.
    """
    parts = []
    for _ in range(IDLE_NAPS):
        wall, begun = time.perf_counter(), loop_cpu_seconds(pid)
        await asyncio.sleep(IDLE_NAP_SECONDS)
        parts.append((loop_cpu_seconds(pid) - begun) / (time.perf_counter() - wall))
    return min(parts)


async def measure_use(pid: int, attempts: int, attempt: Attempt, idle: float = 0.0) -> Use:
    """Returns the smallest use of several attempts, after subtracting what the idle process uses (`measure_idle`)."""
    uses: list[Use] = []
    for _ in range(attempts):
        reset_peak(pid)
        memory, begun, wall = memory_mib(pid, "VmRSS"), loop_cpu_seconds(pid), time.perf_counter()
        await attempt()
        idle_seconds = idle * (time.perf_counter() - wall)
        total_ms = 1000 * max(0.0, loop_cpu_seconds(pid) - begun - idle_seconds)
        uses.append(Use(total_ms, memory_mib(pid, "VmHWM") - memory))
        if total_ms > HOPELESS_MS:
            break
    return Use(min(use.total_ms for use in uses), max(0.0, min(use.peak_mib for use in uses)))


async def measure_step(pid: int, file: Path, attempts: int, attempt: Attempt) -> Step:
    """Makes several attempts against a gateway under the loop tracer, which writes its iterations to `file`. Returns
    the shortest of their longest iterations.
    """
    steps: list[Step] = []
    for _ in range(attempts):
        os.kill(pid, loop_tracer.START)
        await attempt()
        longest = await _written(pid, file)
        steps.append(longest)
        if steps[-1].ms > HOPELESS_MS:
            break
    return min(steps, key=_ms)


async def _written(pid: int, file: Path) -> Step:
    """Ends the recording, and returns its longest iteration. Raises TimeoutError if the tracer writes no file."""
    os.kill(pid, loop_tracer.STOP)
    async with asyncio.timeout(WRITTEN_SECONDS):
        while True:
            longest = _longest(file)
            if longest is not None:
                return longest
            await asyncio.sleep(LOOK_SECONDS)


def _longest(file: Path) -> Step | None:
    """Reads and removes the file of iterations; returns the longest one, or None if the file is not written yet."""
    if not file.exists():
        return None
    rows = json.loads(file.read_text())
    file.unlink()
    return max((Step(row["cpu_milliseconds"], row["cause"]) for row in rows), key=_ms, default=Step(0.0))


def measure_receiving(size: int) -> float:
    """Returns the processor milliseconds that receiving `size` bytes takes."""
    return 1000 * cpu_seconds_to_receive(size, times=3)


def mib(size: int) -> float:
    return size / MIB


def reset_peak(pid: int) -> None:
    """Resets VmHWM to the current VmRSS."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _ms(step: Step) -> float:
    return step.ms
