"""Bounds the CPU time of a child process while other processes need the cores.

A low priority is not enough beside an engine on a CPU: its threads wait for each other at each layer, and in these gaps
a process of any priority takes the core, and the caches that the engine had filled. Between containers, and between
sessions where the kernel groups processes by session, the priority has no effect at all.
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
"""The most CPU time that the process may save up while it waits, for example for its disk."""
LOOK_SECONDS = 0.5
"""The time over which the use of the cores is measured."""
CROWDED_SHARE = 0.5
"""Other processes need the cores if they use more than this share of them."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class CpuShare:
    """Stops a process, and lets it continue, so that it uses at most a share of one core while the cores are needed."""

    def __init__(self, pid: int, share: float, is_crowded: Callable[[], bool] | None = None) -> None:
        """Takes the `share` of one core, above 0; 1 is no limit. `is_crowded` returns whether others need the cores;
        by default `Crowding` measures it.
        """
        self._pid, self._share = pid, share
        self._is_crowded = is_crowded or Crowding(pid).look
        self._is_stopped = False
        self._stopped_at = self._stopped_seconds = 0.0

    @property
    def waited_seconds(self) -> float:
        """Returns how long the process has been stopped here, or has waited for a core that others used."""
        now = time.monotonic() - self._stopped_at if self._is_stopped else 0.0
        return self._stopped_seconds + now + _queued_seconds(self._pid)

    async def enforce(self) -> None:
        """Runs until the process ends or it is cancelled, and then lets the process continue."""
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
    """Measures whether processes other than one of ours use more than `CROWDED_SHARE` of the cores that we may use.

    Processes of a lower priority than the normal one are not counted, unless this process itself has a lower priority:
    then the engine that it started has one too.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._counts_nice = os.getpriority(os.PRIO_PROCESS, 0) > 0
        self._last = self._read()

    def look(self) -> bool:
        """Returns the verdict for the time since the last call; False where the system does not tell."""
        now, last = self._read(), self._last
        self._last = now
        busy, total = now[0] - last[0], now[1] - last[1]
        return total > 0 and busy > CROWDED_SHARE * total

    def _read(self) -> tuple[float, float]:
        """Returns the seconds in which others used our cores, and all seconds of these cores; (0, 0) if unknown."""
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
    """The CPU time of a process with all its threads, in ticks, and whether its priority is below the normal one."""

    user: int
    system: int
    is_nice: bool


def cpu_seconds(pid: int) -> float | None:
    """Returns the CPU time of a process with all its threads; None if it has ended, or the system does not tell."""
    times = _read_times(pid)
    return (times.user + times.system) / _TICKS_PER_SECOND if times else None


def _queued_seconds(pid: int) -> float:
    """Returns how long the process's main thread could have run but had no core; 0 if the system does not tell."""
    try:
        return int((_PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _read_times(pid: int) -> _Times | None:
    """Returns the CPU time of a process; None if it has ended, or the system does not tell."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else _Times(int(fields[11]), int(fields[12]), int(fields[16]) > 0)
