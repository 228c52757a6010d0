"""How lora-servers receive changes and discover each other, with a real Valkey."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pointsman_lora_server.domain import AdapterVersion, EngineState, Phase
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.errors import Unavailable

OLD, NEW = (f"triage@{digit * 12}" for digit in "12")
PROD = "triage@prod"
PATIENT = 5.0  # timeout of a call in seconds, for a busy machine


async def register(registry: AdapterRegistry, name: str = "triage", digits: str = "12") -> None:
    for digit in digits:
        version = AdapterVersion(name, digit * 64, "tiny-base", 2, ("q_proj",), 100, 1)
        await registry.add_version(version, "", False, "ann")
        await registry.set_phase(version.version, Phase.READY)


@pytest.fixture
async def registry(bounded_redis: BoundedRedis) -> AdapterRegistry:
    registry = AdapterRegistry(bounded_redis, "tiny-base")
    await register(registry)
    return registry


async def test_a_change_reaches_every_follower_within_100_ms(registry: AdapterRegistry, valkey: Any) -> None:
    """Measured over twenty changes and eight followers; one in twenty may be late on a busy machine."""
    worst: list[float] = []
    async with AsyncExitStack() as stack:
        followers = [
            AdapterRegistry(
                await stack.enter_async_context(open_redis(valkey.url, lambda up: None, PATIENT)), "tiny-base"
            )
            for _ in range(8)
        ]
        seen = [await follower.wait_for_change("", 1) for follower in followers]
        for number in range(20):
            to = (OLD, NEW)[number % 2]
            waiting = [asyncio.create_task(_hear(*each, to)) for each in zip(followers, seen, strict=True)]
            await _all_wait(valkey, len(followers))
            moved_at = time.monotonic()
            await registry.move_alias(PROD, to)
            result = await asyncio.gather(*waiting)
            seen = [last_id for last_id, _ in result]
            worst.append(max(at for _, at in result) - moved_at)

    assert sorted(worst)[-2] < 0.1, worst


async def _hear(follower: AdapterRegistry, last_id: str, version: str) -> tuple[str, float]:
    """Waits until the follower has read that the alias points to `version`, and returns the time."""
    while True:
        last_id = await follower.wait_for_change(last_id, 4)
        if [alias.version for alias in (await follower.read()).aliases] == [version]:
            return last_id, time.monotonic()


async def _all_wait(valkey: Any, how_many: int) -> None:
    async def wait(redis: BoundedRedis) -> bool:
        return int((await redis.client.info("clients"))["blocked_clients"]) >= how_many

    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        await _until(lambda: wait(redis))


async def _until(asks: Callable[[], Awaitable[object]]) -> None:
    """Waits until the condition is true."""
    deadline = time.monotonic() + 10
    while not await asks():
        assert time.monotonic() < deadline, "not within 10 s"
        await asyncio.sleep(0.001)


async def test_a_new_follower_gets_the_current_position_at_once(registry: AdapterRegistry) -> None:
    newest = await registry.wait_for_change("", 60)

    assert newest == (await registry.history("", 1))[0].id
    assert await registry.wait_for_change("0-0", 60) == newest


async def test_without_a_change_the_position_is_unchanged(
    bounded_redis: BoundedRedis, registry: AdapterRegistry
) -> None:
    newest = await registry.wait_for_change("", 1)
    assert await registry.wait_for_change(newest, 0.02) == newest

    empty = AdapterRegistry(bounded_redis, "another-base")
    assert await empty.wait_for_change("", 60) == "0-0"
    assert await empty.wait_for_change("0-0", 0.02) == "0-0"


async def test_a_redis_that_lost_its_stream_is_noticed_at_once(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    """This happens if it is restarted without its file, or with a file that lacks the last second."""
    newest = await registry.wait_for_change("", 1)
    await registry.read()
    await bounded_redis.client.flushall()

    assert await registry.wait_for_change(newest, 60) == "0-0"
    assert not (await registry.read()).versions

    await register(registry, digits="1")
    assert set((await registry.read()).versions) == {OLD}


async def test_a_follower_survives_that_redis_is_killed_and_started_again(
    registry: AdapterRegistry, valkey: Any
) -> None:
    newest = await registry.wait_for_change("", 1)
    waiting = asyncio.create_task(registry.wait_for_change(newest, 4))
    await _all_wait(valkey, 1)

    valkey.stop()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.code == "redis_unavailable"

    valkey.start()
    assert await _patiently(registry, newest) == newest
    await registry.move_alias(PROD, OLD)
    assert await registry.wait_for_change(newest, 4) != newest


async def test_a_hanging_redis_is_reported_to_followers_in_time(registry: AdapterRegistry, valkey: Any) -> None:
    newest = await registry.wait_for_change("", 1)
    waiting = asyncio.create_task(registry.wait_for_change(newest, 0.5))
    await _all_wait(valkey, 1)

    valkey.hang()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await waiting

    assert time.monotonic() - began < 1.5


async def test_a_cancelled_follower_ends(registry: AdapterRegistry, valkey: Any) -> None:
    waiting = asyncio.create_task(registry.wait_for_change(await registry.wait_for_change("", 1), 4))
    await _all_wait(valkey, 1)

    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def _patiently(registry: AdapterRegistry, newest: str) -> str:
    """Reads the changes, and tries again once the pause after an error of Redis is over."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await registry.wait_for_change(newest, 0.02)
            except Unavailable:
                await asyncio.sleep(0.02)


async def test_the_history_is_of_one_adapter_or_of_all_and_newest_first(registry: AdapterRegistry) -> None:
    await register(registry, "tria", "3")  # a name with another name as prefix

    everything = await registry.history("", 100)
    assert [change.subject for change in everything[:2]] == ["tria@" + "3" * 12] * 2
    assert [change.id for change in everything] == sorted((change.id for change in everything), reverse=True)
    assert {change.subject for change in await registry.history("triage", 100)} == {OLD, NEW}
    assert await registry.history("", 3) == everything[:3]
    assert all(abs(change.at_unix_ms / 1000 - time.time()) < 60 for change in everything)


async def test_an_old_change_is_found_after_thousands_of_others(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    async with bounded_redis.client.pipeline() as pipe:
        for _ in range(1200):
            fields = dict.fromkeys(("kind", "before", "after", "author", "reason"), "x") | {"subject": "other@prod"}
            pipe.xadd("{pointsman:adapters:tiny-base}:changes", fields)
        await pipe.execute()

    assert len(await registry.history("triage", 100)) == 4


async def test_the_history_is_bounded(registry: AdapterRegistry, bounded_redis: BoundedRedis) -> None:
    async with bounded_redis.client.pipeline() as pipe:
        for _ in range(10_500):
            pipe.xadd("{pointsman:adapters:tiny-base}:changes", {"kind": "x"})
        await pipe.execute()

    await registry.move_alias(PROD, OLD)

    assert await bounded_redis.client.xlen("{pointsman:adapters:tiny-base}:changes") < 10_200


async def test_a_lease_has_one_holder_until_it_is_released(registry: AdapterRegistry) -> None:
    assert await registry.acquire_lease("validate", "one", 60)
    assert await registry.acquire_lease("validate", "one", 60), "it can be lengthened"
    assert not await registry.acquire_lease("validate", "two", 60)
    assert await registry.acquire_lease("another", "two", 60)

    await registry.release_lease("validate", "two")
    assert not await registry.acquire_lease("validate", "two", 60), "nobody gives back what another holds"

    await registry.release_lease("validate", "one")
    assert await registry.acquire_lease("validate", "two", 60)


async def test_the_lease_of_a_dead_holder_expires(registry: AdapterRegistry) -> None:
    assert await registry.acquire_lease("validate", "one", 0.05)

    await _until(lambda: registry.acquire_lease("validate", "two", 60))


async def test_engines_that_confirmed_a_version_are_listed_while_they_report(registry: AdapterRegistry) -> None:
    await registry.report_engine("engine-b", EngineState(resident=frozenset({OLD, NEW})), 60)
    await registry.report_engine("engine-a", EngineState(resident=frozenset({OLD}), draining=frozenset({NEW})), 60)
    assert await registry.engines_holding(OLD) == ["engine-a", "engine-b"]
    assert await registry.engines_holding(NEW) == ["engine-b"]

    await registry.report_engine("engine-b", EngineState(), 60)
    assert await registry.engines_holding(OLD) == ["engine-a"]

    await registry.report_engine("engine-a", EngineState(resident=frozenset({OLD})), 0.05)
    await _until(lambda: _nobody_holds(registry, OLD))


async def _nobody_holds(registry: AdapterRegistry, version: str) -> bool:
    return not await registry.engines_holding(version)


async def test_an_engine_that_stops_reporting_is_removed(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    await registry.report_engine("gone", EngineState(resident=frozenset({OLD})), 0.001)
    await _until(lambda: _nobody_holds(registry, OLD))

    await registry.report_engine("here", EngineState(), 60)

    assert await bounded_redis.client.hkeys("{pointsman:adapters:tiny-base}:engines") == ["here"]
