"""How long a service runs: until it is told to stop; and what of it lives as long."""

import asyncio
import gc
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

log = logging.getLogger(__name__)

WORKER_THREADS = 6
"""Threads for what would hold up the event loop: files, models, an encoder."""
START_TIMEOUT = 10.0
"""Seconds in which they must be there; where the system makes no more threads, those that are do not wait for ever."""


async def wait_for_stop_signal() -> signal.Signals:
    """Waits for SIGINT or SIGTERM, and returns which."""
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
    """The time in which all is served though readiness says no: until everyone who sends requests here has heard.

    Who presses Ctrl-C has nobody that must hear of it.
    """
    if told_by == signal.SIGTERM and seconds:
        log.info("leaving: not ready any more, serving on for %g s", seconds)
        await asyncio.sleep(seconds)


async def start_worker_threads(count: int = WORKER_THREADS) -> None:
    """Has all threads of `asyncio.to_thread` there from the start.

    One that is made when that many things first overlap brings a stack and a heap of its own, which may be after hours.
    Raises RuntimeError where the system does not give as many.
    """
    loop, all_there = asyncio.get_running_loop(), Barrier(count, timeout=START_TIMEOUT)
    loop.set_default_executor(ThreadPoolExecutor(count, "worker"))
    await asyncio.gather(*[asyncio.to_thread(all_there.wait) for _ in range(count)])


def freeze_gc() -> None:
    """Takes all that has been built so far, which stays, out of the garbage collector's sight, and lets it look rarely.

    A request leaves next to no cycles behind, but allocates a thousand objects: with Python's own thresholds up to half
    of the gateway's time went into walking through what was built at the start.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
