"""The desired state, in a real Valkey."""

import asyncio
import time
from typing import Any

import pytest
from pointsman_lora_server.domain import AdapterVersion, Alias
from pointsman_lora_server.registry import DEADLINE, TRIES, Registry
from pointsman_servicekit.errors import FailedPrecondition, NotFound, Unavailable


def adapter(digit: str, created: int = 1, name: str = "triage") -> AdapterVersion:
    return AdapterVersion(name, digit * 64, "tiny-base", 2, ("q_proj",), 100, created, {"seed": digit})


OLD, NEW = adapter("1", created=1), adapter("2", created=2)


@pytest.fixture
async def registry(redis: Any) -> Registry:
    registry = Registry(redis, "tiny-base")
    for version in (OLD, NEW):
        await registry.record(version)
    return registry


async def test_what_is_recorded_is_read_back_as_it_was(registry: Registry) -> None:
    desired = await registry.read()

    assert desired.versions == {OLD.version: OLD, NEW.version: NEW}
    assert await registry.version(NEW.version) == NEW


async def test_the_first_record_of_a_version_stays(registry: Registry) -> None:
    again = adapter("1", created=99)

    assert await registry.record(again) == OLD


async def test_each_move_counts_and_the_same_move_twice_is_one(registry: Registry) -> None:
    assert await registry.move("triage@prod", OLD.version) == Alias("triage@prod", OLD.version, 1)
    assert await registry.move("triage@prod", NEW.version) == Alias("triage@prod", NEW.version, 2)
    assert await registry.move("triage@prod", NEW.version) == Alias("triage@prod", NEW.version, 2)
    assert (await registry.read()).aliases == (Alias("triage@prod", NEW.version, 2),)


async def test_of_two_who_move_an_alias_at_once_one_is_told(registry: Registry) -> None:
    third = await registry.record(adapter("3"))
    await registry.move("triage@prod", OLD.version)

    outcomes = await asyncio.gather(
        *(registry.move("triage@prod", to.version, expected=OLD.version) for to in (NEW, third)),
        return_exceptions=True,
    )

    refused = [outcome for outcome in outcomes if isinstance(outcome, FailedPrecondition)]
    assert [error.code for error in refused] == ["alias_moved"]
    assert sum(isinstance(outcome, Alias) for outcome in outcomes) == 1


async def test_an_alias_that_is_new_is_not_what_was_expected(registry: Registry) -> None:
    with pytest.raises(FailedPrecondition, match="points to nothing"):
        await registry.move("triage@prod", NEW.version, expected=OLD.version)


async def test_an_alias_cannot_point_to_what_was_never_registered(registry: Registry) -> None:
    with pytest.raises(NotFound):
        await registry.move("triage@prod", "triage@0123456789ab")
    with pytest.raises(NotFound):
        await registry.version("triage@0123456789ab")


async def test_the_wanted_begin_with_what_an_alias_points_to_and_then_the_newest(registry: Registry) -> None:
    await registry.record(adapter("3", created=3))
    await registry.move("triage@prod", OLD.version)

    assert (await registry.read()).wanted == (OLD.version, adapter("3").version, NEW.version)


async def test_a_version_that_its_last_alias_left_is_wanted_no_more(registry: Registry) -> None:
    for alias in ("triage@prod", "triage@canary"):
        await registry.move(alias, OLD.version)

    await registry.move("triage@prod", NEW.version)
    assert OLD.version in (await registry.read()).wanted

    await registry.move("triage@canary", NEW.version)
    assert (await registry.read()).wanted == (NEW.version,)

    await registry.move("triage@prod", OLD.version)  # a rollback
    assert OLD.version in (await registry.read()).wanted


async def test_engines_of_another_base_model_have_a_state_of_their_own(registry: Registry, redis: Any) -> None:
    assert (await Registry(redis, "another-base").read()).versions == {}


async def test_a_redis_that_hangs_is_a_dead_one(registry: Registry, valkey: Any) -> None:
    valkey.hang()
    started = time.monotonic()

    with pytest.raises(Unavailable) as caught:
        await registry.read()

    assert caught.value.code == "redis_unavailable"
    assert time.monotonic() - started < TRIES * DEADLINE + 0.5  # a busy machine is allowed some


async def test_a_redis_that_comes_back_is_used_again(registry: Registry, valkey: Any) -> None:
    valkey.stop()
    with pytest.raises(Unavailable):
        await registry.read()

    valkey.start()

    assert set((await registry.read()).versions) == {OLD.version, NEW.version}
