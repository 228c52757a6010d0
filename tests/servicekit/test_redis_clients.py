"""The URLs of Redis with Sentinels and of a cluster, and the clients that they describe, with real Valkeys."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.gateway.doubles.valkey_groups import ClusterGroup, SentinelGroup, running_cluster, running_sentinel
from tests.gateway.doubles.waiting import found

KEY = "{pointsman}:test"
PATIENCE = 30.0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://a:1,b:2", "the path after the Sentinels must be /SERVICE or /SERVICE/DB"),
        ("redis+sentinel://a/service/x", "the path after the Sentinels must be /SERVICE or /SERVICE/DB"),
        ("redis+sentinel:///service", "is not a list HOST:PORT,HOST:PORT"),
        ("redis+cluster://a:1,,b:2", "is not a list HOST:PORT,HOST:PORT"),
        ("redis+cluster://a:x", "Port could not be cast"),
        ("redis+cluster://a/3", "a cluster has no database '3'"),
        ("redis+cluster://a?no_such=1", "unknown option: .*no_such"),
        ("redis+ring://a", r"unknown scheme 'redis\+ring://'; redis://, rediss://, unix://, redis\+sentinel://"),
        ("unix+cluster://a", r"unknown scheme 'unix\+cluster://'"),
        ("nowhere", "must specify one of the following schemes"),
    ],
)
async def test_a_wrong_url_is_refused_with_the_reason(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        async with open_client(url):
            pass


async def test_opening_a_connection_leaves_no_garbage(tmp_path: Path) -> None:
    """Otherwise each outage of Redis leaves thousands of objects until the next collection."""
    async with running_valkey(tmp_path) as valkey, open_client(valkey.url) as opened:

        async def reconnect() -> int:
            gc.collect()
            await opened.client.connection_pool.disconnect()
            assert await opened.client.ping()
            await asyncio.sleep(0)
            return gc.collect()

        gc.disable()
        try:
            left = [await reconnect() for _ in range(3)]
        finally:
            gc.enable()
        assert max(left[1:]) < 10  # an asyncio connection alone leaves five


async def test_user_password_database_and_tls_are_those_of_the_url() -> None:
    url = "rediss+sentinel://ann:s%40@a:1,[::1]/main/3?ssl_cert_reqs=none&sentinel_password=x"
    async with open_client(url) as opened:
        pool = opened.client.connection_pool
        kwargs = pool.connection_kwargs
        assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("ann", "s@", 3)
        assert (pool.service_name, pool.connection_class.__name__) == ("main", "SentinelManagedSSLConnection")
        sentinels = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
        assert [(one["host"], one["port"], one["password"]) for one in sentinels] == [
            ("a", 1, "x"),
            ("::1", 26379, "x"),
        ]
    async with open_client("rediss+cluster://:secret@a,b:7001") as opened:
        nodes = [(node.host, node.port) for node in opened.client.startup_nodes]
        assert nodes == [("a", 6379), ("b", 7001)]
        assert opened.client.connection_kwargs["password"] == "secret"  # not a real one
        assert opened.client.connection_kwargs["connection_class"].__name__ == "SSLConnection"


@pytest.fixture
async def sentinel(tmp_path: Path) -> AsyncIterator[SentinelGroup]:
    async with running_sentinel(tmp_path) as group:
        yield group


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterGroup]:
    async with running_cluster(tmp_path) as group:
        yield group


def increments(redis: BoundedRedis) -> Callable[[], Awaitable[int | None]]:
    async def increment() -> int | None:
        try:
            return int(await redis.call(lambda: redis.client.incr(KEY)))
        except Unavailable:
            return None

    return increment


async def survives(url: str, primary: Valkey, *, hangs: bool) -> list[bool]:
    """Uses Redis before, during and after a failover. Returns the reported changes between up and down."""
    changes: list[bool] = []
    async with open_redis(url, changes.append, 0.2) as redis:
        increment = increments(redis)
        await found(increment, PATIENCE)
        assert await redis.client.eval("return redis.call('GET', KEYS[1])", 1, KEY) == "1"
        if hangs:
            primary.hang()
        else:
            primary.kill()
        assert await increment() is None
        assert await found(increment, PATIENCE) >= 2
        # Connections to the old primary do not disturb later calls.
        assert all(await asyncio.gather(*(increment() for _ in range(12))))
        if hangs:
            primary.go_on()
        else:
            await primary.start()
    return changes


@pytest.mark.parametrize("hangs", [False, True])
async def test_sentinels_name_the_new_primary(sentinel: SentinelGroup, hangs: bool) -> None:
    (primary,) = await sentinel.primaries()
    changes = await survives(sentinel.url, primary, hangs=hangs)
    assert changes[:1] == [False]
    assert changes[-1] is True


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_replica_takes_over_the_slots_of_a_clusters_node(cluster: ClusterGroup, hangs: bool) -> None:
    changes = await survives(cluster.url, await cluster.owner_of(KEY), hangs=hangs)
    assert changes[:1] == [False]
    assert changes[-1] is True


async def test_an_unreachable_group_does_not_prevent_the_start(tmp_path: Path) -> None:
    for url in ("redis+sentinel://127.0.0.1:1/main", "redis+cluster://127.0.0.1:1"):
        async with open_redis(url, lambda up: None) as redis:
            with pytest.raises(Unavailable):
                await redis.call(partial(redis.client.get, KEY))


async def test_messages_are_received_in_a_cluster(cluster: ClusterGroup) -> None:
    async with open_redis(cluster.url, lambda up: None, 2.0) as redis, redis.client.pubsub() as subscription:
        await subscription.subscribe(KEY)

        async def message() -> Any:
            await redis.client.eval("return redis.call('PUBLISH', ARGV[1], 'hello')", 1, KEY, KEY)
            return await subscription.get_message(ignore_subscribe_messages=True, timeout=1.0)

        assert (await found(message, PATIENCE))["data"] == "hello"


WRONG_TYPE: dict[str, Any] = {
    "a command": lambda redis: redis.hgetall("text"),
    "a script's command": lambda redis: redis.eval("return redis.call('HGETALL', KEYS[1])", 1, "text"),
    "a script": lambda redis: redis.eval("return redis.call('GET', KEYS[1]) + 1", 1, "text"),
}


@pytest.mark.parametrize("call", WRONG_TYPE.values(), ids=WRONG_TYPE.keys())
async def test_a_value_of_another_type_fails_only_the_calls_that_read_it(call: Any, tmp_path: Path) -> None:
    changes: list[bool] = []
    async with running_valkey(tmp_path) as valkey, open_redis(valkey.url, changes.append, 5.0) as redis:
        await redis.call(lambda: redis.client.set("text", "abc"))
        with pytest.raises(Unavailable, match="a value in Redis cannot be used: ") as raised:
            await redis.call(lambda: call(redis.client))
        assert raised.value.code == "redis_unavailable"
        assert await redis.call(lambda: redis.client.get("text")) == "abc"
    assert changes == []
