"""How long a service runs: until it is told to stop."""

import asyncio
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
