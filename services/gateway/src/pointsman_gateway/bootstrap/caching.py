"""Builds the cache, and puts it around the stage that answers where a path of the configuration caches."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from pointsman_servicekit.bounded_redis import open_redis
from prometheus_client import CollectorRegistry

from pointsman_gateway.cache.keys import CacheKeyBuilder
from pointsman_gateway.cache.stage import CacheResources, CachingBackend, Embed
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.cache.writer import AnswerWriter, CacheMetrics
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.domain import Path
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.pipeline.ports import Backend
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.settings import Settings


@asynccontextmanager
async def keeping_answers(
    settings: Settings, registry: CollectorRegistry, redaction: Redaction, embedding: str
) -> AsyncIterator[CacheResources | None]:
    """None where there is no Redis; `embedding` names the encoder. Raises ConfigError where its address is none."""
    url = settings.cache_redis_url or settings.redis_url
    if not url:
        yield None
        return
    metrics = CacheMetrics(registry)
    async with AsyncExitStack() as stack:
        try:
            redis = await stack.enter_async_context(open_redis(url, metrics.set_redis_up))
        except ValueError as error:
            raise ConfigError(f"POINTSMAN_GATEWAY_CACHE_REDIS_URL is no address of Redis: {error}") from error
        store = CacheStore(redis, settings.cache_megabytes * 1024 * 1024)
        keeper = await stack.enter_async_context(AnswerWriter(store, metrics, redaction.leaves))
        yield CacheResources(store, keeper, metrics, embedding)


def cached(
    inner: Backend,
    cache: CacheResources | None,
    config: Config,
    paths: Mapping[str, Path],
    engines: Engines,
    embed: Embed | None,
) -> Backend:
    """`inner` itself where no path caches. Raises ConfigError where one does, and there is no Redis."""
    rules = {name: path.cache for name, path in config.paths.paths.items() if path.cache and path.cache.exact}
    if not rules:
        return inner
    if cache is None:
        first = next(iter(rules))
        raise ConfigError(f"paths.yaml: path '{first}' caches, and there is no Redis; set POINTSMAN_GATEWAY_REDIS_URL")
    asking = {name: CacheKeyBuilder(paths[name], rule, cache.embedding) for name, rule in rules.items()}
    return CachingBackend(inner, cache, asking, engines.version_of, embed)
