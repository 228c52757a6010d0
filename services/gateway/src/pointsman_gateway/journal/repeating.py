"""Does something again and again, beside the requests."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from pointsman_servicekit.errors import Unavailable

log = logging.getLogger(__name__)


@asynccontextmanager
async def repeating(period: float, work: Callable[[], Awaitable[None]], name: str) -> AsyncIterator[None]:
    """For the length of the block, whatever the work raises; `period` seconds lie between two times."""
    task = asyncio.create_task(_repeat(period, work), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _repeat(period: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Unavailable:
            pass  # the breaker has told, and lets it be tried again
        except Exception:  # whatever it is, the journal must go on
            log.exception("the journal's upkeep failed")
        await asyncio.sleep(period)
