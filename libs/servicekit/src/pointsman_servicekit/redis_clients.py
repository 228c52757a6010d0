"""Redis clients for the URLs of one server, of servers with Sentinels, and of a cluster.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]                                one server; also rediss:// and unix://
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB]   Sentinels, and a service of theirs
    redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]            some nodes of a cluster

`rediss+sentinel` and `rediss+cluster` use TLS. redis-py's options may follow, as in `?ssl_ca_certs=FILE`. User and
password are those of the servers; `?sentinel_username=` and `?sentinel_password=` are those of the Sentinels.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisClusterException, RedisError
from redis.maint_notifications import MaintNotificationsConfig

DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}
"""The port for hosts without a port in the URL, by the part of the URL's scheme after the "+"."""

DISCOVERY_TIMEOUT_SECONDS = 0.5
"""Timeout in seconds of one Sentinel or cluster node that is asked for the addresses of the servers."""

MAX_DISCOVERY_ATTEMPTS = 4
"""Maximum number of attempts to learn a cluster's nodes. redis-py asks known nodes in random order, and one of the
nodes may hang.
"""

REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
"""The classes of errors that redis-py raises if Redis is unavailable. RedisClusterException is not a subclass of
RedisError."""


@dataclass(frozen=True, slots=True)
class RedisClient:
    client: Any
    """A `Redis` or a `RedisCluster` that decodes responses.

    Its type is Any because redis-py's type stubs describe neither the decoding nor the results of calls.
    """
    rediscover: Callable[[], Awaitable[None]] | None = None
    """A function that finds the current primaries, for example after a failover; None for a single server. It may raise
    `errors`.
    """
    errors: tuple[type[Exception], ...] = REDIS_ERRORS
    """The classes of the errors that calls raise if Redis is unavailable."""


@asynccontextmanager
async def open_client(url: str, **options: Any) -> AsyncIterator[RedisClient]:
    """Yields a Redis client whose connections do not retry, and closes it at the block's end.

    `url` is redis://, rediss:// or unix://, or redis+sentinel:// or redis+cluster:// (also rediss+) with several hosts;
    the module describes the forms. `options` are those of redis-py's connections. Connects at the first call. Raises
    ValueError if the URL is not valid.
    """
    options |= {"decode_responses": True, **_connection_options()}
    scheme, _, kind = urlsplit(url).scheme.partition("+")
    if not kind:
        async with Redis.from_url(url, **options) as client:
            yield RedisClient(client)
        return
    if scheme not in ("redis", "rediss") or kind not in DEFAULT_PORTS:
        known = ", ".join(f"{base}+{known}://" for base in ("redis", "rediss") for known in DEFAULT_PORTS)
        raise ValueError(f"unknown scheme '{scheme}+{kind}://'; redis://, rediss://, unix://, {known}")
    hosts, path, settings = _parse(url, scheme, kind)
    async with (_open_sentinel if kind == "sentinel" else _open_cluster)(hosts, path, settings | options) as client:
        yield client


def _connection_options() -> dict[str, Any]:
    """Returns the options that all connections get.

    Connections do not retry. By default redis-py would also read its own version from disk for each connection, and
    send a command that Valkey rejects.
    """
    return {
        "retry": Retry(NoBackoff(), 0),
        "driver_info": DriverInfo(),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _parse(url: str, scheme: str, kind: str) -> tuple[list[tuple[str, int]], list[str], dict[str, Any]]:
    """Splits a URL into (host, port) pairs, the parts of its path, and redis-py's settings.

    Raises ValueError if a host, a port or an option is not valid.
    """
    parts = urlsplit(url)
    login, at, names = parts.netloc.rpartition("@")
    hosts = []
    for name in names.split(","):
        host = urlsplit(f"//{name}")
        if not host.hostname:
            raise ValueError(f"'{names}' is not a list HOST:PORT,HOST:PORT")
        hosts.append((host.hostname, host.port or DEFAULT_PORTS[kind]))
    settings: dict[str, Any] = dict(parse_url(f"{scheme}://{login}{at}{names.split(',')[0]}?{parts.query}"))
    del settings["host"]
    settings.pop("port", None)
    settings["ssl"] = settings.pop("connection_class", None) is SSLConnection
    return hosts, [unquote(part) for part in parts.path.split("/") if part], settings


@asynccontextmanager
async def _open_sentinel(
    hosts: list[tuple[str, int]], path: list[str], settings: dict[str, Any]
) -> AsyncIterator[RedisClient]:
    if not 1 <= len(path) <= 2 or (len(path) == 2 and not path[1].isdecimal()):
        raise ValueError(
            "the path after the Sentinels must be /SERVICE or /SERVICE/DB; SERVICE is the name of what they watch"
        )
    login = {name: settings.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = {name: value for name, value in settings.items() if name.startswith("ssl")}
    timeouts = {"socket_timeout": DISCOVERY_TIMEOUT_SECONDS, "socket_connect_timeout": DISCOVERY_TIMEOUT_SECONDS}
    sentinel_settings = {**login, **tls, **timeouts, **_connection_options()}
    # Before release 8.2, redis does not annotate it.
    async with Sentinel(hosts, sentinel_kwargs=sentinel_settings) as sentinel:  # type: ignore[no-untyped-call,unused-ignore]
        client = sentinel.master_for(path[0], **settings, db=int(path[1]) if len(path) == 2 else 0)
        pool = client.connection_pool
        assert isinstance(pool, SentinelConnectionPool)

        async def rediscover() -> None:
            # It also closes idle connections to an earlier primary.
            await pool.get_master_address()  # type: ignore[no-untyped-call]  # redis does not annotate it

        async with client:
            yield RedisClient(client, rediscover)


@asynccontextmanager
async def _open_cluster(
    hosts: list[tuple[str, int]], path: list[str], settings: dict[str, Any]
) -> AsyncIterator[RedisClient]:
    if path and path != ["0"]:
        raise ValueError(f"a cluster has no database '{path[0]}'; leave it out")
    try:
        client = RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in hosts], **settings)
    except TypeError as error:
        raise ValueError(f"unknown option: {error}") from error

    async def rediscover() -> None:
        for _ in range(MAX_DISCOVERY_ATTEMPTS):
            await client.aclose()
            with suppress(*REDIS_ERRORS):  # TimeoutError is an OSError
                async with asyncio.timeout(DISCOVERY_TIMEOUT_SECONDS):
                    await client.initialize()
                return

    try:
        yield RedisClient(client, rediscover)
    finally:
        await client.aclose()
