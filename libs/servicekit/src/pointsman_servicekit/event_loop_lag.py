"""Measures how late the event loop runs callbacks that are due."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Histogram

INTERVAL_SECONDS = 0.1
"""Seconds between two measurements of how late the event loop runs a callback."""


BUCKETS = (.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5)  # fmt: skip


@asynccontextmanager
async def measuring_event_loop_lag(registry: CollectorRegistry) -> AsyncIterator[None]:
    """Exports during the block, as a histogram in `registry`, how many seconds late the event loop runs a callback."""
    lag = Histogram(
        "pointsman_event_loop_lag_seconds",
        "How much later than it should the event loop came to what was due.",
        buckets=BUCKETS,
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
        due = loop.time() + INTERVAL_SECONDS
        await asyncio.sleep(INTERVAL_SECONDS)
        lag.observe(max(0.0, loop.time() - due))
