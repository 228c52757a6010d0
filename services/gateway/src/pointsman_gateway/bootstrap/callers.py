"""Builds what knows callers and their limits: nothing where keys are off."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from pointsman_servicekit.bounded_redis import open_redis
from prometheus_client import CollectorRegistry

from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.settings import Settings
from pointsman_gateway.tenancy.keys import KeyCacheConfig
from pointsman_gateway.tenancy.metrics import TenancyMetrics
from pointsman_gateway.tenancy.stage import OpenAccess, Tenancy


@asynccontextmanager
async def knowing_callers(settings: Settings, registry: CollectorRegistry) -> AsyncIterator[OpenAccess | Tenancy]:
    """Raises ConfigError where keys are on and there is no Redis to keep them in."""
    async with AsyncExitStack() as stack:
        tenancy: OpenAccess | Tenancy = OpenAccess()
        if settings.auth == "on":
            if not settings.redis_url:
                raise ConfigError("POINTSMAN_GATEWAY_AUTH is on, and keys are kept in Redis: set its _REDIS_URL too")
            metrics = TenancyMetrics(registry)
            try:
                redis = await stack.enter_async_context(open_redis(settings.redis_url, lambda up: None))
            except ValueError as error:
                raise ConfigError(f"POINTSMAN_GATEWAY_REDIS_URL is no address of Redis: {error}") from error
            tenancy = Tenancy(redis, metrics, KeyCacheConfig(ttl_s=settings.key_cache_ttl))
        await stack.enter_async_context(tenancy.running())
        yield tenancy
