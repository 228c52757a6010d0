"""How late the event loop is: what every request of this process waits for, and no handler sees."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Histogram

EVERY = 0.1
"""Seconds between two looks."""

SECONDS = (.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5)  # fmt: skip


@asynccontextmanager
async def watching_event_loop(registry: CollectorRegistry) -> AsyncIterator[None]:
    """Measures as long as the block lasts."""
    lag = Histogram(
        "pointsman_event_loop_lag_seconds",
        "How much later than it should the event loop came to what was due.",
        buckets=SECONDS,
        registry=registry,
    )
    watching = asyncio.create_task(_watch(lag), name="watch event loop")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _watch(lag: Histogram) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY
        await asyncio.sleep(EVERY)
        lag.observe(max(0.0, loop.time() - due))
