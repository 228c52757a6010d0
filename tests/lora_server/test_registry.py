"""The desired state as a real Valkey stores it: versions, their states, aliases and pins."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from pointsman_lora_server.domain import AdapterVersion, Alias, Phase, PhaseRecord
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_lora_server.registry.schema import RedisKeys
from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound


def adapter(digit: str, name: str = "triage") -> AdapterVersion:
    return AdapterVersion(
        name,
        digit * 64,
        "tiny-base",
        2,
        ("q_proj",),
        100,
        1,
        {"seed": digit},
        base_digest="b" * 64,
        metrics={"heldout_exact": 1 / 3},
        author="ann",
    )


OLD, NEW, THIRD = adapter("1"), adapter("2"), adapter("3")
PROD = "triage@prod"


@pytest.fixture
async def registry(bounded_redis: BoundedRedis) -> AdapterRegistry:
    """A registry with three versions, the third of which is not ready."""
    registry = AdapterRegistry(bounded_redis, "tiny-base")
    for version in (OLD, NEW, THIRD):
        await registry.add_version(version, "", False, "ann")
    for version in (OLD, NEW):
        await registry.set_phase(version.version, Phase.READY)
    return registry


async def kinds(registry: AdapterRegistry) -> list[str]:
    """Returns the kinds of the changes, newest first."""
    return [change.kind for change in await registry.history("", 1000)]


async def test_records_are_read_back_unchanged(registry: AdapterRegistry) -> None:
    desired = await registry.read()

    assert dict(desired.versions) == {version.version: version for version in (OLD, NEW, THIRD)}
    assert desired.phases[OLD.version] == PhaseRecord(Phase.READY)
    assert desired.phases[THIRD.version] == PhaseRecord(Phase.REGISTERED)


async def test_the_first_record_of_a_version_stays(registry: AdapterRegistry) -> None:
    again = replace(OLD, created_unix_ms=99, author="bob")

    assert await registry.add_version(again, "", False, "bob") == OLD
    assert (await registry.read()).versions[OLD.version] == OLD
    assert len(await kinds(registry)) == 5


async def test_a_requested_alias_is_kept_until_it_is_settled(registry: AdapterRegistry) -> None:
    await registry.add_version(THIRD, "prod", True, "ann")
    assert (await registry.read()).phases[THIRD.version] == PhaseRecord(
        Phase.REGISTERED, alias_suffix="prod", force=True
    )

    await registry.add_version(THIRD, "", False, "ann")
    assert (await registry.read()).phases[THIRD.version].alias_suffix == "prod", "wishing nothing takes no wish away"

    await registry.clear_alias_request(THIRD.version, "prod")
    assert (await registry.read()).phases[THIRD.version] == PhaseRecord(Phase.REGISTERED)


async def test_settling_a_request_keeps_a_newer_one(registry: AdapterRegistry) -> None:
    await registry.add_version(THIRD, "prod", False, "ann")
    await registry.add_version(THIRD, "beta", False, "bob")

    await registry.clear_alias_request(THIRD.version, "prod")

    assert (await registry.read()).phases[THIRD.version].alias_suffix == "beta"


async def test_only_the_requested_change_settles_the_request(registry: AdapterRegistry) -> None:
    await registry.add_version(OLD, "prod", True, "ann")

    await registry.move_alias("triage@beta", OLD.version)
    assert (await registry.read()).phases[OLD.version].alias_suffix == "prod"

    await registry.move_alias(PROD, OLD.version)
    assert (await registry.read()).phases[OLD.version] == PhaseRecord(Phase.READY)


async def test_a_ready_version_stays_ready_when_registered_again_with_an_alias(registry: AdapterRegistry) -> None:
    await registry.add_version(OLD, "prod", False, "ann")

    assert (await registry.read()).phases[OLD.version] == PhaseRecord(Phase.READY, alias_suffix="prod")


async def test_a_request_for_the_current_alias_has_no_effect(registry: AdapterRegistry) -> None:
    await registry.move_alias(PROD, OLD.version)
    before = await kinds(registry)

    await registry.add_version(OLD, "prod", False, "ann")

    assert (await registry.read()).phases[OLD.version].alias_suffix == ""
    assert await kinds(registry) == before


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.RETIRED])
async def test_registering_again_restores_a_failed_or_retired_version(registry: AdapterRegistry, phase: Phase) -> None:
    await registry.set_phase(THIRD.version, phase, error_code="not_finite", error="a weight is NaN")

    await registry.add_version(THIRD, "prod", False, "ann")

    assert (await registry.read()).phases[THIRD.version] == PhaseRecord(Phase.REGISTERED, alias_suffix="prod")
    change = (await registry.history("triage", 1))[0]
    assert (change.kind, change.before, change.after) == ("registered", phase.value, "registered")


async def test_a_failure_is_kept_with_its_reason(registry: AdapterRegistry) -> None:
    assert await registry.set_phase(THIRD.version, Phase.FAILED, error_code="not_finite", error="a weight is NaN")

    standing = (await registry.read()).phases[THIRD.version]
    assert (standing.error_code, standing.error) == ("not_finite", "a weight is NaN")
    assert (await registry.history("triage", 1))[0].reason == "a weight is NaN"


async def test_a_phase_changes_only_from_the_expected_one(registry: AdapterRegistry) -> None:
    assert await registry.set_phase(THIRD.version, Phase.VALIDATING, expected=Phase.REGISTERED)
    assert not await registry.set_phase(THIRD.version, Phase.VALIDATING, expected=Phase.REGISTERED), "another did it"
    assert not await registry.set_phase("triage@0123456789ab", Phase.READY)
    assert await registry.set_phase(THIRD.version, Phase.READY, expected=Phase.VALIDATING)
    assert (await registry.read()).phases[THIRD.version].phase is Phase.READY


async def test_each_change_increments_the_revision_and_repetitions_do_not(registry: AdapterRegistry) -> None:
    assert await registry.move_alias(PROD, OLD.version) == Alias(PROD, OLD.version, 1)
    assert await registry.move_alias(PROD, NEW.version) == Alias(PROD, NEW.version, 2, previous=OLD.version)
    assert await registry.move_alias(PROD, NEW.version) == Alias(PROD, NEW.version, 2, previous=OLD.version)
    assert (await registry.read()).aliases == (Alias(PROD, NEW.version, 2, previous=OLD.version),)
    assert (await kinds(registry)).count("alias") == 2


async def test_an_alias_with_an_unexpected_version_is_not_changed(registry: AdapterRegistry) -> None:
    with pytest.raises(FailedPrecondition, match="points to nothing") as caught:
        await registry.move_alias(PROD, NEW.version, expected=OLD.version)
    assert caught.value.code == "alias_moved"

    await registry.move_alias(PROD, NEW.version)
    with pytest.raises(FailedPrecondition, match=f"points to {NEW.version}"):
        await registry.move_alias(PROD, OLD.version, expected=THIRD.version)


async def test_an_alias_cannot_point_to_an_unknown_version(registry: AdapterRegistry) -> None:
    with pytest.raises(NotFound) as caught:
        await registry.move_alias(PROD, "triage@0123456789ab")
    assert caught.value.code == "unknown_version"
    assert "no version 'triage@0123456789ab' is registered; see `pointsman adapters list`" in str(caught.value)


async def test_an_alias_cannot_point_to_another_adapter(registry: AdapterRegistry) -> None:
    with pytest.raises(InvalidArgument, match="another adapter"):
        await registry.move_alias("triage2@prod", OLD.version)


async def test_an_alias_cannot_point_to_a_version_that_is_not_ready(registry: AdapterRegistry) -> None:
    with pytest.raises(FailedPrecondition, match="is registered"):
        await registry.move_alias(PROD, THIRD.version)

    await registry.set_phase(THIRD.version, Phase.FAILED, error_code="not_finite", error="a weight is NaN")
    with pytest.raises(FailedPrecondition, match=r"is failed: a weight is NaN \(not_finite\)") as caught:
        await registry.move_alias(PROD, THIRD.version)

    assert caught.value.code == "not_ready"
    assert (await registry.read()).aliases == ()


async def test_a_version_in_use_is_not_retired_and_those_who_use_it_are_named(registry: AdapterRegistry) -> None:
    for alias in (PROD, "triage@beta"):
        await registry.move_alias(alias, OLD.version)

    with pytest.raises(FailedPrecondition, match="triage@beta, triage@prod") as caught:
        await registry.retire(OLD.version, "ann")
    assert caught.value.code == "in_use"

    for alias in (PROD, "triage@beta"):
        await registry.move_alias(alias, NEW.version)
    await registry.retire(OLD.version, "ann")
    await registry.retire(OLD.version, "ann")
    assert (await registry.read()).phases[OLD.version].phase is Phase.RETIRED
    assert (await kinds(registry)).count("retired") == 1


async def test_only_retired_or_failed_versions_are_deleted_with_all_their_data(
    registry: AdapterRegistry,
) -> None:
    await registry.set_pinned(OLD.version, True, "ann")
    with pytest.raises(FailedPrecondition, match="retire it first") as caught:
        await registry.delete(OLD.version, "ann")
    assert caught.value.code == "not_retired"

    await registry.retire(OLD.version, "ann")
    await registry.delete(OLD.version, "ann")

    desired = await registry.read()
    assert OLD.version not in desired.versions
    assert OLD.version not in desired.phases
    assert desired.pins == frozenset()
    with pytest.raises(NotFound):
        await registry.delete(OLD.version, "ann")


async def test_a_failed_version_that_an_alias_still_points_to_is_not_deleted(registry: AdapterRegistry) -> None:
    await registry.move_alias(PROD, OLD.version)
    await registry.set_phase(OLD.version, Phase.FAILED, error_code="damaged", error="its file is gone")

    with pytest.raises(FailedPrecondition, match=PROD):
        await registry.delete(OLD.version, "ann")


async def test_a_version_that_was_deleted_can_be_registered_as_new(registry: AdapterRegistry) -> None:
    await registry.retire(OLD.version, "ann")
    await registry.delete(OLD.version, "ann")
    later = replace(OLD, created_unix_ms=99)

    assert await registry.add_version(later, "", False, "bob") == later
    assert (await registry.read()).versions[OLD.version] == later


async def test_a_reader_that_missed_a_deletion_reads_the_new_record(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    reader = AdapterRegistry(bounded_redis, "tiny-base")
    await reader.read()
    await registry.retire(OLD.version, "ann")
    await registry.delete(OLD.version, "ann")
    later = replace(OLD, created_unix_ms=99)
    await registry.add_version(later, "", False, "bob")

    assert (await reader.read()).versions[OLD.version] == later


async def test_a_pin_is_set_and_taken_away_once_each(registry: AdapterRegistry) -> None:
    for pinned in (True, True, False, False):
        await registry.set_pinned(OLD.version, pinned, "ann")
        assert (await registry.read()).pins == (frozenset({OLD.version}) if pinned else frozenset())

    assert (await kinds(registry)).count("pin") == 2
    with pytest.raises(NotFound):
        await registry.set_pinned("triage@0123456789ab", True, "ann")


async def test_a_retired_version_cannot_be_pinned(registry: AdapterRegistry) -> None:
    await registry.retire(OLD.version, "ann")

    with pytest.raises(FailedPrecondition, match="is retired"):
        await registry.set_pinned(OLD.version, True, "ann")


async def test_engines_of_another_base_model_have_a_state_of_their_own(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    other = AdapterRegistry(bounded_redis, "another-base")

    assert not (await other.read()).versions
    assert await other.history("", 10) == []


async def test_all_keys_are_in_one_cluster_slot(registry: AdapterRegistry, bounded_redis: BoundedRedis) -> None:
    await registry.acquire_lease("validate", "me", 10)

    keys = await bounded_redis.client.keys("*")

    assert len(keys) > 5
    assert all(key.startswith("{pointsman:adapters:tiny-base}:") for key in keys)


async def test_an_unchanged_state_is_not_read_again(registry: AdapterRegistry, bounded_redis: BoundedRedis) -> None:
    first = await registry.read()
    assert await registry.read() is first

    await AdapterRegistry(bounded_redis, "tiny-base").move_alias(PROD, OLD.version)

    changed = await registry.read()
    assert [alias.version for alias in changed.aliases] == [OLD.version]
    assert await registry.read() is changed


async def test_unknown_fields_of_newer_servers_are_ignored(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    key = "{pointsman:adapters:tiny-base}:versions"
    raw = await bounded_redis.client.hget(key, OLD.version)
    await bounded_redis.client.hset(key, OLD.version, raw.replace("{", '{"colour": "red", ', 1))

    assert (await AdapterRegistry(bounded_redis, "tiny-base").read()).versions[OLD.version] == OLD


async def test_text_that_utf8_cannot_encode_is_recorded(registry: AdapterRegistry) -> None:
    await registry.set_phase(
        THIRD.version, Phase.FAILED, error_code="unsafe_file", error="the file '\udcff\x00' of Zoë"
    )

    assert (await registry.read()).phases[THIRD.version].error == "the file '?\x00' of Zoë"


WRONG_FIELDS: list[dict[str, Any]] = [
    {"rank": "2"}, {"target_modules": 5}, {"target_modules": [5]}, {"sha256": None}, {"facts": []},
]  # fmt: skip
DEEP = '{"a":' * 5000
WRONG_RECORDS: list[tuple[str, str, str]] = [
    *(("versions", OLD.version, text) for text in ("", "{", "[]", "null", "{}", DEEP, '{"name": "triage"}')),
    *(("versions", OLD.version, json.dumps(asdict(OLD) | wrong)) for wrong in WRONG_FIELDS),
    *(("phases", OLD.version, text) for text in ("5", "[]", "{}", DEEP, '{"phase": "asleep", "made": "1"}')),
    *(
        ("aliases", PROD, text)
        for text in ("5", "[]", "{}", '{"version": 5, "canary": "", "revision": 1, "previous": ""}')
    ),
    ("aliases", PROD, '{"version": "a", "canary": "b", "terms": "{", "weight": "1", "revision": 1, "previous": ""}'),
    ("aliases", PROD, '{"version": "a", "canary": "", "revision": "new", "previous": ""}'),
    ("placements", "triage", "everywhere"),
    ("upcoming", NEW.version, "soon"),
]


async def test_an_alias_that_cannot_be_read_is_named(registry: AdapterRegistry, bounded_redis: BoundedRedis) -> None:
    await bounded_redis.client.hset(RedisKeys("tiny-base").aliases, PROD, '{"version": 5}')
    with pytest.raises(FailedPrecondition, match=f"alias '{PROD}' cannot be read"):
        await registry.read()


@pytest.mark.parametrize(("where", "field", "wrong"), WRONG_RECORDS, ids=range(len(WRONG_RECORDS)))
async def test_a_record_of_another_form_is_an_error_that_names_it(
    registry: AdapterRegistry, bounded_redis: BoundedRedis, where: str, field: str, wrong: str
) -> None:
    await bounded_redis.client.hset(getattr(RedisKeys("tiny-base"), where), field, wrong)
    with pytest.raises(FailedPrecondition, match="cannot be read") as raised:
        await registry.read()
    assert raised.value.code == "unreadable_record"


async def test_a_change_of_another_form_is_left_out_of_the_history(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    before = await registry.history("", 1000)
    await bounded_redis.client.xadd(RedisKeys("tiny-base").changes, {"alien": "x"})
    assert await registry.history("", 1000) == before
