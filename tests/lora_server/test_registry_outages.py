"""The registry under concurrent writers, lost replies, and a Valkey that is killed or suspended."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, Phase
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_servicekit.bounded_redis import CALL_TIMEOUT_SECONDS, MAX_ATTEMPTS, BoundedRedis, open_redis
from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts
from pointsman_servicekit.errors import FailedPrecondition, Unavailable
from pointsman_servicekit.redis_clients import RedisClient

VERSIONS = [f"triage@{digit * 12}" for digit in "12345678"]
OLD, NEW = VERSIONS[:2]
PROD = "triage@prod"
PATIENT = 5.0  # timeout of a call in seconds, for a busy machine


@pytest.fixture
async def registry(bounded_redis: BoundedRedis) -> AdapterRegistry:
    registry = AdapterRegistry(bounded_redis, "tiny-base")
    for digit in "12345678":
        version = AdapterVersion("triage", digit * 64, "tiny-base", 2, ("q_proj",), 100, 1)
        await registry.add_version(version, "", False, "ann")
        await registry.set_phase(version.version, Phase.READY)
    await registry.move_alias(PROD, OLD)
    return registry


async def test_of_concurrent_alias_changes_exactly_one_wins(registry: AdapterRegistry, valkey: Any) -> None:
    async with AsyncExitStack() as stack:
        rivals = [
            AdapterRegistry(
                await stack.enter_async_context(open_redis(valkey.url, lambda up: None, PATIENT)), "tiny-base"
            )
            for _ in VERSIONS[1:]
        ]
        current = OLD
        for _ in range(20):
            targets = [version for version in VERSIONS if version != current]
            outcomes = await asyncio.gather(
                *(rival.move_alias(PROD, to, expected=current) for rival, to in zip(rivals, targets, strict=True)),
                return_exceptions=True,
            )
            (won,) = [outcome for outcome in outcomes if isinstance(outcome, Alias)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, FailedPrecondition)]
            assert [error.code for error in lost] == ["alias_moved"] * (len(rivals) - 1)
            assert (await registry.read()).aliases == (won,)
            current = won.version

    assert won.revision == 21
    assert [change.kind for change in await registry.history("", 100)].count("alias") == 21


async def test_of_many_servers_exactly_one_validates(registry: AdapterRegistry) -> None:
    version = AdapterVersion("triage", "9" * 64, "tiny-base", 2, ("q_proj",), 100, 1)
    await registry.add_version(version, "", False, "ann")

    began = await asyncio.gather(
        *(registry.set_phase(version.version, Phase.VALIDATING, expected=Phase.REGISTERED) for _ in range(8))
    )

    assert sorted(began) == [False] * 7 + [True]


async def test_a_call_with_a_lost_reply_is_retried_and_applied_once(valkey: Any, registry: AdapterRegistry) -> None:
    """The time limit passes before any reply arrives, but every attempt reaches Redis."""
    await registry.move_alias(PROD, NEW)
    canary = await registry.set_canary("triage@prod", Canary(VERSIONS[2], 0.5))
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        impatient = AdapterRegistry(_LosingTheFirstAnswer(redis), "tiny-base")
        await impatient.add_outcomes([CanaryReport(PROD, canary.revision, NEW, RequestCounts(5, 1, 0, {3: 4}))])
        assert (await impatient.roll_back(PROD)).version == NEW
        assert (await impatient.roll_back(PROD)).version == OLD

    assert await registry.canary_counts(canary) == {NEW: RequestCounts(5, 1, 0, {3: 4})}
    assert (await registry.read()).aliases == (Alias(PROD, OLD, 5, previous=NEW),)
    assert [change.kind for change in await registry.history("", 3)] == ["rollback", "rollback", "canary"]


class _LosingTheFirstAnswer(BoundedRedis):
    """Sends each call twice, like a client that gets no reply to the first one."""

    def __init__(self, redis: BoundedRedis) -> None:
        super().__init__(RedisClient(redis.client), lambda up: None, PATIENT)

    async def call(self, call: Any) -> Any:
        await super().call(call)
        return await super().call(call)


async def test_a_hanging_redis_counts_as_down_and_later_calls_fail_at_once(valkey: Any) -> None:
    async with open_redis(valkey.url, lambda up: None) as redis:
        registry = AdapterRegistry(redis, "tiny-base")
        valkey.hang()
        started = time.monotonic()
        for calling in (registry.read, lambda: registry.move_alias(PROD, NEW)):
            with pytest.raises(Unavailable) as caught:
                await calling()
            assert caught.value.code == "redis_unavailable"

    assert time.monotonic() - started < MAX_ATTEMPTS * CALL_TIMEOUT_SECONDS + 0.5  # some are allowed on a busy machine


async def test_acknowledged_changes_survive_a_kill_of_redis(registry: AdapterRegistry, valkey: Any) -> None:
    """Ten kills during changes: an alias is where the last reply said, or one unanswered change further."""
    (found,) = (await registry.read()).aliases
    for _ in range(10):
        moving = asyncio.create_task(_move_until_it_fails(valkey, found))
        await _until_moved(valkey, found.revision + 5)
        valkey.stop()
        last = await moving
        valkey.start()

        async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
            after = AdapterRegistry(redis, "tiny-base")
            (found,) = (await after.read()).aliases
            history = [change for change in await after.history("", 10_000) if change.kind == "alias"]

        assert found == last or found.revision == last.revision + 1
        assert len(history) == found.revision, "each revision has its entry"
        assert history[0].after == found.version


async def _move_until_it_fails(valkey: Any, alias: Alias) -> Alias:
    """Moves the alias until a call fails, and returns the last reply."""
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        registry = AdapterRegistry(redis, "tiny-base")
        while True:
            to = NEW if alias.version == OLD else OLD
            try:
                alias = await registry.move_alias(PROD, to, expected=alias.version)
            except Unavailable:
                return alias


async def _until_moved(valkey: Any, revision: int) -> None:
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis, asyncio.timeout(10):
        looking = AdapterRegistry(redis, "tiny-base")
        while (await looking.read()).aliases[0].revision < revision:
            pass


async def test_only_changed_versions_are_read_again(bounded_redis: BoundedRedis) -> None:
    registry = AdapterRegistry(bounded_redis, "another-base")
    facts = {f"fact-{number}": "x" * 30 for number in range(10)}
    for number in range(1000):
        version = AdapterVersion(f"a{number}", f"{number:064x}", "another-base", 8, ("q_proj",) * 7, 10**7, 1, facts)
        await registry.add_version(version, "", False, "ann")
    first = await registry.read()
    assert len(first.versions) == 1000

    await registry.set_phase(version.version, Phase.READY)
    second = await registry.read()
    assert all(second.versions[name] is first.versions[name] for name in first.versions), "no record is read again"

    started = time.process_time()
    for _ in range(100):
        await registry.read()
    assert (time.process_time() - started) / 100 < 0.002, "where nothing changed, nothing is read"
