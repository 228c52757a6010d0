"""Builds the console's read side: its own connection to Redis, so that a long read never counts as an outage."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from pointsman_servicekit.bounded_redis import open_redis

from pointsman_gateway.bootstrap.memory import Memory
from pointsman_gateway.console.stage import Console
from pointsman_gateway.generations import Generations
from pointsman_gateway.request_log.store import RequestLogReader
from pointsman_gateway.settings import Settings

PATIENCE = 2.0
"""Seconds a call: a person waits, no request does."""


@asynccontextmanager
async def overseeing(settings: Settings, generations: Generations, memory: Memory) -> AsyncIterator[Console]:
    hosts = tuple(name.strip().lower() for name in settings.console_hosts.split(",") if name.strip())
    async with AsyncExitStack() as stack:
        reader = None
        if settings.redis_url:
            redis = await stack.enter_async_context(open_redis(settings.redis_url, lambda up: None, PATIENCE))
            reader = RequestLogReader(redis)
        yield Console(lambda: generations.current, memory.board, reader, settings.auth == "on", hosts)
