"""Connects to the Redis of the response cache, and creates the object that writes answers to the cache in the
background.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.redis import connect
from pointsman_gateway.cache.stage import AnswerWriter, CacheMetrics, CacheResources
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.settings import Settings


@asynccontextmanager
async def open_cache(
    settings: Settings, registry: CollectorRegistry, redaction: Redaction
) -> AsyncIterator[CacheResources | None]:
    """A context manager that opens the response cache and closes it after the block; yields None if no Redis URL is
    set.

    An answer that `redaction` would change, since it has personal data, is not stored. Raises ConfigError if the URL is
    invalid.
    """
    url = settings.cache_redis_url or settings.redis_url
    if not url:
        yield None
        return
    metrics = CacheMetrics(registry)
    async with AsyncExitStack() as stack:
        redis = await connect(stack, url, "CACHE_REDIS_URL", metrics.set_redis_up)
        store = CacheStore(redis, settings.cache_megabytes * 1024 * 1024)
        writer = await stack.enter_async_context(AnswerWriter(store, metrics, redaction.leaves))
        yield CacheResources(store, writer, metrics)
