"""How long a service runs: until it is told to stop; and what of it lives as long."""

import asyncio
import gc
import signal


async def until_told_to_stop() -> signal.Signals:
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


def spare_the_collector() -> None:
    """Takes all that has been built so far, which stays, out of the garbage collector's sight, and lets it look rarely.

    A request leaves next to no cycles behind, but allocates a thousand objects: with Python's own thresholds up to half
    of the gateway's time went into walking through what was built at the start.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
