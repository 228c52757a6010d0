"""A service's process: stop signals, delayed shutdown, worker threads, garbage collector, and background tasks.

Background tasks run at an interval for as long as the service runs.
"""

import asyncio
import ctypes
import gc
import logging
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from threading import Barrier

from pointsman_servicekit.errors import Unavailable

log = logging.getLogger(__name__)

WORKER_THREADS = 6
"""Threads for work that would block the event loop: files, models, the encoder."""
START_TIMEOUT_SECONDS = 10.0
"""Seconds in which all threads must have started."""
MAX_MALLOC_ARENAS = 1
"""By default each thread has an arena of its own, which keeps the memory of the largest work that the thread ever did:
8 MB after 40 reloads of the help desk's configuration. `malloc_trim` returns the end of the main arena only, so with a
second one up to 14 MB stayed after four threads had embedded long texts."""
M_ARENA_MAX = -8  # mallopt(3)
TRIM_INTERVAL_SECONDS = 10.0

MIN_DELAY_AFTER_ERROR = 1.0
"""Seconds after an unexpected error, so that work with a short interval does not fill the log with tracebacks."""


async def wait_for_stop_signal() -> signal.Signals:
    """Waits for SIGINT or SIGTERM and returns the signal."""
    received: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def receive(which: signal.Signals) -> None:
        if not received.done():
            received.set_result(which)

    loop = asyncio.get_running_loop()
    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, receive, which)
    try:
        return await received
    finally:
        for which in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(which)


async def delay_shutdown(received: signal.Signals, seconds: float) -> None:
    """Waits for `seconds` after SIGTERM, so that load balancers notice that the service is reported as not ready.

    The caller reports that, and serves meanwhile. After SIGINT (Ctrl-C) it returns at once.
    """
    if received == signal.SIGTERM and seconds:
        log.info("leaving: not ready any more, serving on for %g s", seconds)
        await asyncio.sleep(seconds)


async def start_worker_threads(count: int = WORKER_THREADS) -> None:
    """Starts all threads of `asyncio.to_thread` at once, and limits malloc to one arena.

    A thread that is started later, when that many calls first overlap, adds a stack and a heap to the process, perhaps
    after hours. Raises RuntimeError if the system does not provide that many.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library than glibc has none
        mallopt(M_ARENA_MAX, MAX_MALLOC_ARENAS)
    loop, all_there = asyncio.get_running_loop(), Barrier(count, timeout=START_TIMEOUT_SECONDS)
    loop.set_default_executor(ThreadPoolExecutor(count, "worker"))
    await asyncio.gather(*[asyncio.to_thread(all_there.wait) for _ in range(count)])


def freeze_gc() -> None:
    """Excludes all existing objects from garbage collection and makes collections rare.

    A request allocates about a thousand objects, and almost all are freed without the collector. With Python's default
    thresholds the gateway spent up to half of its time on collections that scanned long-lived objects again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@asynccontextmanager
async def trimming_heap(interval: float = TRIM_INTERVAL_SECONDS) -> AsyncIterator[None]:
    """Returns memory that malloc holds but nothing uses to the system every `interval` seconds, in a worker thread.

    By default malloc returns only what is at the end of an arena. The event loop waits if it needs the arena
    meanwhile: about 0.05 ms for each returned megabyte.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # another C library than glibc has none
        yield
        return

    async def work() -> None:
        await asyncio.to_thread(trim, 0)

    async with running_periodically(work, Schedule(interval), "return unused memory"):
        yield


@dataclass(frozen=True, slots=True)
class Backoff:
    """The seconds before a process is restarted: doubled after each death, reset after `calm` seconds without one."""

    first: float = 0.5
    longest: float = 30.0
    calm: float = 60.0

    def after(self, previous: float, lived: float) -> float:
        """Returns the next wait; `previous` is the last one (0: none), `lived` the seconds since the last start."""
        if previous == 0 or lived >= self.calm:
            return self.first
        return min(previous * 2, self.longest)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often `running_periodically` calls its function, and whether it starts at once."""

    interval: float
    """Seconds from the end of one run to the start of the next."""
    jitter: float = 0.0
    """Fraction of the interval by which each wait is varied at random, so that replicas do not all run at once: 0.1
    spreads the waits evenly over 0.9 to 1.1 intervals."""
    run_at_start: bool = False
    """Whether the first run starts at once, not after the first interval."""
    wake: asyncio.Event | None = None
    """If set by anyone, the next run starts without waiting for the interval; cleared before that run."""

    def delay(self) -> float:
        """Returns the seconds until the next run of the periodic work."""
        return self.interval * (1 + self.jitter * random.uniform(-1, 1)) if self.jitter else self.interval


@asynccontextmanager
async def running_periodically(
    work: Callable[[], Awaitable[None]], schedule: Schedule, name: str
) -> AsyncIterator[asyncio.Task[None]]:
    """Runs `work` as a background task for the length of the block, and waits for its cancellation at the end.

    `name` is what the work does ("renew quota leases"); it names the task and appears in log lines.
    """
    task = asyncio.create_task(run_periodically(work, schedule, name), name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def run_periodically(work: Callable[[], Awaitable[None]], schedule: Schedule, name: str) -> None:
    """Runs `work` until cancelled. An error never ends the loop.

    `Unavailable` is expected while a dependency is down and is not logged: the client whose circuit breaker raises it
    has logged the change. Any other exception is logged with its traceback.
    """
    wait = not schedule.run_at_start
    delay = schedule.delay()
    while True:
        if wait:
            await _sleep(delay, schedule.wake)
        wait, delay = True, schedule.delay()
        try:
            await work()
        except Unavailable:
            pass
        except Exception:  # whatever it is, the next run must come
            log.exception("cannot %s", name)
            delay = max(delay, MIN_DELAY_AFTER_ERROR)
        _raise_if_cancelled()


async def _sleep(seconds: float, wake: asyncio.Event | None) -> None:
    if wake is None:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
    wake.clear()


def _raise_if_cancelled() -> None:
    """Raises CancelledError if the current task was cancelled and the cancellation was lost. Python 3.11's
    `asyncio.wait_for`, which redis-py uses, swallows a cancellation that arrives together with the result.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
