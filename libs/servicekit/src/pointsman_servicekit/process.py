"""A service's process: its stop signals, its delayed shutdown, its worker threads, and its garbage collector."""

import asyncio
import gc
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

log = logging.getLogger(__name__)

WORKER_THREADS = 6
"""Threads for work that would block the event loop: files, models, the encoder."""
START_TIMEOUT = 10.0
"""Seconds in which all threads must have started."""


async def wait_for_stop_signal() -> signal.Signals:
    """Waits for SIGINT or SIGTERM and returns the signal."""
    told: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def tell(which: signal.Signals) -> None:
        if not told.done():
            told.set_result(which)

    loop = asyncio.get_running_loop()
    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, tell, which)
    try:
        return await told
    finally:
        for which in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(which)


async def delay_shutdown(told_by: signal.Signals, seconds: float) -> None:
    """Keeps serving for `seconds` after SIGTERM, although the service reports not ready, so that load balancers notice
    first.

    SIGINT (Ctrl-C) does not wait.
    """
    if told_by == signal.SIGTERM and seconds:
        log.info("leaving: not ready any more, serving on for %g s", seconds)
        await asyncio.sleep(seconds)


async def start_worker_threads(count: int = WORKER_THREADS) -> None:
    """Starts all threads of `asyncio.to_thread` at once.

    A thread that is started later, when that many calls first overlap, adds a stack and a heap to the process, perhaps
    after hours. Raises RuntimeError if the system does not provide that many.
    """
    loop, all_there = asyncio.get_running_loop(), Barrier(count, timeout=START_TIMEOUT)
    loop.set_default_executor(ThreadPoolExecutor(count, "worker"))
    await asyncio.gather(*[asyncio.to_thread(all_there.wait) for _ in range(count)])


def freeze_gc() -> None:
    """Excludes all existing objects from garbage collection and makes collections rare.

    A request leaves almost no reference cycles but allocates a thousand objects: with Python's default thresholds up to
    half of the gateway's time was spent on scanning objects that live as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
