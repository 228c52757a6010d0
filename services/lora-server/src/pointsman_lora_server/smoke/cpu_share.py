"""Limits the CPU time of a child process while other processes need the cores.

Lowering the child's priority is not enough if the engine runs on the CPU. The engine's threads wait for each other at
each layer; in these gaps a process of any priority takes the core, and evicts the engine's data from the caches.
Between containers, and between sessions if the kernel groups processes by session, priorities have no effect at all.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICK_SECONDS = 0.02
MAX_SAVED_SECONDS = 0.05
"""The largest unused CPU time that the child process may accumulate, in seconds, for example while it waits for its
disk."""
LOOK_SECONDS = 0.5
"""Seconds over which the use of the cores by other processes is measured."""
CROWDED_SHARE = 0.5
"""If other processes use more than this fraction of the cores, they need the cores, and the child process is
limited."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class CpuShare:
    """Limits a process to a fraction of one core while other processes need the cores, by stopping and continuing it
    (SIGSTOP, SIGCONT).
    """

    def __init__(self, pid: int, share: float, is_crowded: Callable[[], bool] | None = None) -> None:
        """`share` is the fraction of one core that the process may use, above 0; 1 is no limit. `is_crowded` returns
        whether other processes need the cores; by default `Crowding` measures this.
        """
        self._pid, self._share = pid, share
        self._is_crowded = is_crowded or Crowding(pid).look
        self._is_stopped = False
        self._stopped_at = self._stopped_seconds = 0.0

    @property
    def waited_seconds(self) -> float:
        """Returns for how many seconds the process was stopped by this object, or waited for a core that other
        processes used.
        """
        now = time.monotonic() - self._stopped_at if self._is_stopped else 0.0
        return self._stopped_seconds + now + _queued_seconds(self._pid)

    async def enforce(self) -> None:
        """Enforces the limit until the process ends or this call is cancelled, and then lets the process continue."""
        if self._share >= 1:
            return
        loop = asyncio.get_running_loop()
        saved, before, seen_at, looked_at, is_crowded = 0.0, cpu_seconds(self._pid), loop.time(), -1.0, False
        try:
            while before is not None:
                await asyncio.sleep(TICK_SECONDS)
                now, used = loop.time(), cpu_seconds(self._pid)
                if used is None:
                    return
                saved = min(saved + (now - seen_at) * self._share - (used - before), MAX_SAVED_SECONDS)
                before, seen_at = used, now
                if now - looked_at >= LOOK_SECONDS:
                    looked_at, is_crowded = now, self._is_crowded()
                if not is_crowded:
                    saved = 0.0
                self._set_stopped(is_crowded and saved < 0)
        finally:
            self._set_stopped(False)

    def _set_stopped(self, is_stopped: bool) -> None:
        if is_stopped != self._is_stopped:
            self._is_stopped = is_stopped
            if is_stopped:
                self._stopped_at = time.monotonic()
            else:
                self._stopped_seconds += time.monotonic() - self._stopped_at
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGSTOP if is_stopped else signal.SIGCONT)


class Crowding:
    """Measures whether other processes than the limited one (`pid`) use more than `CROWDED_SHARE` of the cores that
    this process may use.

    Processes of a low priority are not counted. If this process itself has a low priority, they are counted, because
    the engine that it started has one too.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._counts_nice = os.getpriority(os.PRIO_PROCESS, 0) > 0
        self._last = self._read()

    def look(self) -> bool:
        """Returns whether other processes needed the cores since the last call; False if the operating system does not
        report their use.
        """
        now, last = self._read(), self._last
        self._last = now
        busy, total = now[0] - last[0], now[1] - last[1]
        return total > 0 and busy > CROWDED_SHARE * total

    def _read(self) -> tuple[float, float]:
        """Returns the total seconds for which other processes have used the cores, and the total seconds of these
        cores; (0, 0) if unknown.
        """
        busy, total = 0.0, 0.0
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        try:
            lines = (_PROC / "stat").read_text().splitlines()
        except OSError:
            return 0.0, 0.0
        for line in lines:
            name, *fields = line.split()
            if name in names:
                ticks = [int(field) for field in fields[:8]]  # user, nice, system, idle, iowait, irq, softirq, steal
                total += sum(ticks)
                busy += sum(ticks) - ticks[3] - ticks[4] - (0 if self._counts_nice else ticks[1])
        own = _read_times(self._pid)
        if own:  # the user time of a process with a lower priority is in the ticks of `nice`
            busy -= own.system + (own.user if self._counts_nice or not own.is_nice else 0)
        return busy / _TICKS_PER_SECOND, total / _TICKS_PER_SECOND


class _Times(NamedTuple):
    """The user and system CPU time of a process with all its threads, in ticks, and whether its priority is below
    normal.
    """

    user: int
    system: int
    is_nice: bool


def cpu_seconds(pid: int) -> float | None:
    """Returns the CPU time of a process with all its threads, in seconds; None if it has ended or the operating system
    does not report it.
    """
    times = _read_times(pid)
    return (times.user + times.system) / _TICKS_PER_SECOND if times else None


def _queued_seconds(pid: int) -> float:
    """Returns for how many seconds the process's main thread was ready to run but had no core; 0 if the operating
    system does not report it.
    """
    try:
        return int((_PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _read_times(pid: int) -> _Times | None:
    """Returns the CPU time of a process; None if it has ended or the operating system does not report it."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else _Times(int(fields[11]), int(fields[12]), int(fields[16]) > 0)
