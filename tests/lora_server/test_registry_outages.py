"""The registry under rivals, lost answers, and a Valkey that is killed or hangs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, Phase
from pointsman_lora_server.registry import Counts, Outcomes, Registry
from pointsman_servicekit.bounded_redis import CALL_TIMEOUT, MAX_ATTEMPTS, BoundedRedis, open_redis
from pointsman_servicekit.errors import FailedPrecondition, Unavailable

VERSIONS = [f"triage@{digit * 12}" for digit in "12345678"]
OLD, NEW = VERSIONS[:2]
PROD = "triage@prod"
PATIENT = 5.0  # seconds a call, on a busy machine


@pytest.fixture
async def bounded_redis(valkey: Any) -> AsyncIterator[BoundedRedis]:
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        yield redis


@pytest.fixture
async def registry(bounded_redis: BoundedRedis) -> Registry:
    registry = Registry(bounded_redis, "tiny-base")
    for digit in "12345678":
        version = AdapterVersion("triage", digit * 64, "tiny-base", 2, ("q_proj",), 100, 1)
        await registry.record(version, "", False, "ann")
        await registry.stand(version.version, Phase.READY)
    await registry.move(PROD, OLD)
    return registry


async def test_of_many_servers_that_move_an_alias_at_once_exactly_one_wins(registry: Registry, valkey: Any) -> None:
    async with AsyncExitStack() as stack:
        rivals = [
            Registry(await stack.enter_async_context(open_redis(valkey.url, lambda up: None, PATIENT)), "tiny-base")
            for _ in VERSIONS[1:]
        ]
        current = OLD
        for _ in range(20):
            targets = [version for version in VERSIONS if version != current]
            outcomes = await asyncio.gather(
                *(rival.move(PROD, to, expected=current) for rival, to in zip(rivals, targets, strict=True)),
                return_exceptions=True,
            )
            (won,) = [outcome for outcome in outcomes if isinstance(outcome, Alias)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, FailedPrecondition)]
            assert [error.code for error in lost] == ["alias_moved"] * (len(rivals) - 1)
            assert (await registry.read()).aliases == (won,)
            current = won.version

    assert won.revision == 21
    assert [change.kind for change in await registry.history("", 100)].count("alias") == 21


async def test_of_many_servers_that_begin_to_validate_exactly_one_does(registry: Registry) -> None:
    version = AdapterVersion("triage", "9" * 64, "tiny-base", 2, ("q_proj",), 100, 1)
    await registry.record(version, "", False, "ann")

    began = await asyncio.gather(
        *(registry.stand(version.version, Phase.VALIDATING, expected=Phase.REGISTERED) for _ in range(8))
    )

    assert sorted(began) == [False] * 7 + [True]


async def test_a_call_whose_answer_got_lost_is_made_again_and_done_once(valkey: Any, registry: Registry) -> None:
    """A deadline that is over before any answer comes: each try arrives all the same."""
    await registry.move(PROD, NEW)
    canary = await registry.set_canary("triage@prod", Canary(VERSIONS[2], 0.5))
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        impatient = Registry(_LosingTheFirstAnswer(redis), "tiny-base")
        await impatient.count([Outcomes(PROD, canary.revision, NEW, Counts(5, 1, 0, {3: 4}))])
        assert (await impatient.rollback(PROD)).version == NEW
        assert (await impatient.rollback(PROD)).version == OLD

    assert await registry.counts(canary) == {NEW: Counts(5, 1, 0, {3: 4})}
    assert (await registry.read()).aliases == (Alias(PROD, OLD, 5, previous=NEW),)
    assert [change.kind for change in await registry.history("", 3)] == ["rollback", "rollback", "canary"]


class _LosingTheFirstAnswer(BoundedRedis):
    """Makes each call twice, as one does that hears nothing of the first."""

    def __init__(self, redis: BoundedRedis) -> None:
        super().__init__(redis.client, lambda up: None, PATIENT)

    async def call(self, call: Any) -> Any:
        await super().call(call)
        return await super().call(call)


async def test_a_redis_that_hangs_is_a_dead_one_and_then_at_once(valkey: Any) -> None:
    async with open_redis(valkey.url, lambda up: None) as redis:
        registry = Registry(redis, "tiny-base")
        valkey.hang()
        started = time.monotonic()
        for calling in (registry.read, lambda: registry.move(PROD, NEW)):
            with pytest.raises(Unavailable) as caught:
                await calling()
            assert caught.value.code == "redis_unavailable"

    assert time.monotonic() - started < MAX_ATTEMPTS * CALL_TIMEOUT + 0.5  # a busy machine is allowed some


async def test_what_was_acknowledged_survives_that_redis_is_killed(registry: Registry, valkey: Any) -> None:
    """Ten times, in the middle of moves: an alias is where the last answer said, or one unanswered move further."""
    (found,) = (await registry.read()).aliases
    for _ in range(10):
        moving = asyncio.create_task(_move_until_it_fails(valkey, found))
        await _until_moved(valkey, found.revision + 5)
        valkey.stop()
        last = await moving
        valkey.start()

        async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
            after = Registry(redis, "tiny-base")
            (found,) = (await after.read()).aliases
            history = [change for change in await after.history("", 10_000) if change.kind == "alias"]

        assert found == last or found.revision == last.revision + 1
        assert len(history) == found.revision, "each revision has its entry"
        assert history[0].after == found.version


async def _move_until_it_fails(valkey: Any, alias: Alias) -> Alias:
    """The last answer."""
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        registry = Registry(redis, "tiny-base")
        while True:
            to = NEW if alias.version == OLD else OLD
            try:
                alias = await registry.move(PROD, to, expected=alias.version)
            except Unavailable:
                return alias


async def _until_moved(valkey: Any, revision: int) -> None:
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis, asyncio.timeout(10):
        looking = Registry(redis, "tiny-base")
        while (await looking.read()).aliases[0].revision < revision:
            pass


async def test_of_a_thousand_versions_only_what_changed_is_read_again(bounded_redis: BoundedRedis) -> None:
    registry = Registry(bounded_redis, "another-base")
    facts = {f"fact-{number}": "x" * 30 for number in range(10)}
    for number in range(1000):
        version = AdapterVersion(f"a{number}", f"{number:064x}", "another-base", 8, ("q_proj",) * 7, 10**7, 1, facts)
        await registry.record(version, "", False, "ann")
    first = await registry.read()
    assert len(first.versions) == 1000

    await registry.stand(version.version, Phase.READY)
    second = await registry.read()
    assert all(second.versions[name] is first.versions[name] for name in first.versions), "no record is read again"

    started = time.process_time()
    for _ in range(100):
        await registry.read()
    assert (time.process_time() - started) / 100 < 0.002, "where nothing changed, nothing is read"
