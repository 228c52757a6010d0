"""What each service's process needs: stop signals, delayed shutdown, threads, memory, and periodic background tasks."""

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
"""Number of threads for work that would block the event loop: files, models, the encoder."""
START_TIMEOUT_SECONDS = 10.0
"""Seconds in which all threads of `start_worker_threads` must have started."""
MAX_MALLOC_ARENAS = 1
"""Maximum number of malloc's memory pools (arenas). By default each thread has its own arena, which keeps the memory of
the largest work that the thread ever did: 8 MB after 40 reloads of the help desk's configuration. `malloc_trim` returns
the end of the main arena only, so with a second arena up to 14 MB were kept after four threads had embedded long texts.
"""
M_ARENA_MAX = -8  # mallopt(3)
TRIM_INTERVAL_SECONDS = 10.0

MIN_DELAY_AFTER_ERROR = 1.0
"""Minimum seconds from an error of a periodic task to its next run, so that short intervals do not fill the log."""


async def wait_for_stop_signal() -> signal.Signals:
    """Waits for SIGINT or SIGTERM and returns the signal. A later signal has its default effect again."""
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
    """Waits for `seconds` if the signal is SIGTERM; after SIGINT (Ctrl-C) it returns at once.

    Before the call, the service must report that it is not ready. During the wait, it must go on serving requests,
    because load balancers take some time to notice.
    """
    if received == signal.SIGTERM and seconds:
        log.info("leaving: not ready any more, serving on for %g s", seconds)
        await asyncio.sleep(seconds)


async def start_worker_threads(count: int = WORKER_THREADS) -> None:
    """Makes a pool of `count` threads for `asyncio.to_thread`, starts all of them, and limits malloc to one arena.

    Without this call, a thread would be started whenever more calls overlap than before, perhaps after hours, and each
    thread takes memory. Raises RuntimeError if the threads have not all started within `START_TIMEOUT_SECONDS`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library than glibc has none
        mallopt(M_ARENA_MAX, MAX_MALLOC_ARENAS)
    loop, all_there = asyncio.get_running_loop(), Barrier(count, timeout=START_TIMEOUT_SECONDS)
    loop.set_default_executor(ThreadPoolExecutor(count, "worker"))
    await asyncio.gather(*[asyncio.to_thread(all_there.wait) for _ in range(count)])


def freeze_gc() -> None:
    """Excludes all existing objects from Python's garbage collection, and makes collections rare.

    A request allocates about a thousand objects, and almost all are freed without the collector. With Python's default
    thresholds the gateway spent up to half of its time on collections that scanned long-lived objects again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@asynccontextmanager
async def trimming_heap(interval: float = TRIM_INTERVAL_SECONDS) -> AsyncIterator[None]:
    """Returns unused memory of malloc to the system every `interval` seconds during the block, in a worker thread.

    Without this, malloc returns only the end of an arena. While memory is returned, other threads that allocate memory
    wait, about 0.05 ms for each megabyte. Does nothing if the C library has no `malloc_trim`.
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
    """Computes how many seconds to wait before a process that has died is replaced.

    The first wait is `first` seconds; each later wait is twice as long as the wait before, up to `longest` seconds.
    After a process that ran for at least `calm` seconds, the next wait is `first` seconds again.
    """

    first: float = 0.5
    longest: float = 30.0
    calm: float = 60.0

    def after(self, previous: float, lived: float) -> float:
        """Returns the next wait in seconds.

        `previous` is the last wait, 0 if there was none. `lived` is how many seconds the process that has died was
        running.
        """
        if previous == 0 or lived >= self.calm:
            return self.first
        return min(previous * 2, self.longest)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often `run_periodically` calls its function, and whether the first call is at once."""

    interval: float
    """Seconds from the end of one run to the start of the next; after an error at least `MIN_DELAY_AFTER_ERROR`."""
    jitter: float = 0.0
    """Fraction of the interval by which each wait is varied at random, so that replicas do not all run at once: with
    0.1, waits are spread evenly over 0.9 to 1.1 intervals."""
    run_at_start: bool = False
    """Whether the first run starts at once, not after the first interval."""
    wake: asyncio.Event | None = None
    """An event that, when it is set, starts the next run without waiting for the interval; it is cleared before that
    run."""

    def delay(self) -> float:
        """Returns the seconds to wait before the next run: the interval, varied at random by `jitter`."""
        return self.interval * (1 + self.jitter * random.uniform(-1, 1)) if self.jitter else self.interval


@asynccontextmanager
async def running_periodically(
    work: Callable[[], Awaitable[None]], schedule: Schedule, name: str
) -> AsyncIterator[asyncio.Task[None]]:
    """Runs `run_periodically` as a background task during the block; at the end cancels it and waits for its end.

    Yields the task. `name` says what the work does ("renew quota leases"); it names the task and appears in log lines.
    """
    task = asyncio.create_task(run_periodically(work, schedule, name), name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def run_periodically(work: Callable[[], Awaitable[None]], schedule: Schedule, name: str) -> None:
    """Calls `work` again and again, as `schedule` says, until it is cancelled; no error ends the loop.

    Unavailable is not logged: the dependency's client has logged that the dependency is down. Any other exception is
    logged with its traceback, and the next run follows after `MIN_DELAY_AFTER_ERROR` seconds at the earliest. `name`
    says what the work does, for log lines.
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
    """Raises CancelledError if the current task was cancelled and the cancellation was lost.

    Python 3.11's `asyncio.wait_for`, which redis-py uses, ignores a cancellation that arrives together with the result.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
