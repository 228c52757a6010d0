"""Builds the object that checks API keys and enforces callers' limits, and checks that single sign-on can be used."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module

from pointsman_servicekit.bounded_redis import open_redis
from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.redis import RedisState, connect
from pointsman_gateway.config.access_file import SingleSignOnConfig
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.settings import Settings
from pointsman_gateway.tenancy.keys import KeyCacheConfig
from pointsman_gateway.tenancy.metrics import TenancyMetrics
from pointsman_gateway.tenancy.stage import OpenAccess, RedisTenancy
from pointsman_gateway.tenancy.tasks import POLL_TIMEOUT_SECONDS


@asynccontextmanager
async def open_tenancy(
    settings: Settings, registry: CollectorRegistry, state: RedisState
) -> AsyncIterator[OpenAccess | RedisTenancy]:
    """A context manager that yields the object that identifies callers and enforces their limits, and closes it at the
    end.

    It is a `RedisTenancy` if authentication is on, and otherwise an `OpenAccess`, which accepts every caller. Raises
    ConfigError if authentication is on and the Redis URL is missing or invalid.
    """
    async with AsyncExitStack() as stack:
        tenancy: OpenAccess | RedisTenancy = OpenAccess()
        if settings.auth == "on":
            if not settings.redis_url:
                raise ConfigError("POINTSMAN_GATEWAY_AUTH is on, which needs Redis: set POINTSMAN_GATEWAY_REDIS_URL")
            metrics = TenancyMetrics(registry)
            redis = await connect(stack, settings.redis_url, "REDIS_URL", partial(state.set_up, "keys"))
            watching = open_redis(settings.redis_url, partial(state.set_up, "changed keys"), POLL_TIMEOUT_SECONDS, 0.0)
            keys = KeyCacheConfig(ttl_s=settings.key_cache_ttl)
            tenancy = RedisTenancy(redis, metrics, keys, watching=await stack.enter_async_context(watching))
        await stack.enter_async_context(tenancy.running())
        yield tenancy


def check_single_sign_on(config: SingleSignOnConfig | None) -> str:
    """Checks that single sign-on can be used, and returns the client secret of the console's login from the
    environment.

    The secret is empty without single sign-on, without a login, or for a public client. Raises ConfigError if a library
    is not installed, or the environment lacks the secret.
    """
    if config is None:
        return ""
    try:
        import_module("pointsman_gateway.tenancy.tokens")  # with PyJWT, cryptography and httpx: 0.2 s
    except ImportError as error:
        raise ConfigError(
            f"access.yaml: single_sign_on needs packages: pip install 'pointsman-gateway[sso]' ({error})"
        ) from error
    name = config.login.client_secret_env if config.login else ""
    if name and not os.environ.get(name):
        raise ConfigError(f"access.yaml: single_sign_on.login.client_secret_env: the variable {name} is not set")
    return os.environ[name] if name else ""
