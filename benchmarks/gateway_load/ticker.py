"""A timer with an even rate and a finer resolution than the event loop's timers, which have one millisecond."""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

MONOTONIC = 1  # CLOCK_MONOTONIC, the clock of time.monotonic
NONBLOCKING = os.O_NONBLOCK | os.O_CLOEXEC
ABSOLUTE = 1  # TFD_TIMER_ABSTIME
START_DELAY_SECONDS = 0.05


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class Ticker:
    """Calls `on_tick` for each tick, including late ones, with the time at which it was due (time.monotonic)."""

    def __init__(self, rate: float, count: int, on_tick: Callable[[float], None]) -> None:
        self._interval, self._left, self._on_tick = 1 / rate, count, on_tick
        self.finished = asyncio.Event()

    def __enter__(self) -> "Ticker":
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._checked(self._libc.timerfd_create(MONOTONIC, NONBLOCKING))
        self._next = time.monotonic() + START_DELAY_SECONDS
        timer = _TimerSpec(_to_timespec(self._interval), _to_timespec(self._next))
        self._checked(self._libc.timerfd_settime(self._fd, ABSOLUTE, ctypes.byref(timer), None))
        asyncio.get_running_loop().add_reader(self._fd, self._on_timer)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _on_timer(self) -> None:
        try:
            ticks = int.from_bytes(os.read(self._fd, 8), "little")
        except BlockingIOError:
            return
        for _ in range(min(ticks, self._left)):
            self._on_tick(self._next)
            self._next += self._interval
        self._left -= min(ticks, self._left)
        if not self._left:
            self.finished.set()

    def _checked(self, result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "timerfd")
        return result


def _to_timespec(seconds: float) -> _Timespec:
    return _Timespec(int(seconds), round(seconds % 1 * 1e9))
