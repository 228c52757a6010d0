"""Canaries, rollbacks and canary metrics in a real Valkey."""

import pytest
from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, CanaryTerms, Phase
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound

OLD, NEW, THIRD, UNREADY = (f"triage@{digit * 12}" for digit in "1234")
PROD = "triage@prod"
TENTH = Canary(NEW, 0.1)


@pytest.fixture
async def registry(bounded_redis: BoundedRedis) -> AdapterRegistry:
    """Yields a registry with an alias that points to the first of three versions; a fourth version is not ready."""
    registry = AdapterRegistry(bounded_redis, "tiny-base")
    for digit in "1234":
        version = AdapterVersion("triage", digit * 64, "tiny-base", 2, ("q_proj",), 100, 1)
        await registry.add_version(version, "", False, "ann")
        if version.version != UNREADY:
            await registry.set_phase(version.version, Phase.READY)
    await registry.move_alias(PROD, OLD)
    return registry


async def alias_of(registry: AdapterRegistry) -> Alias:
    (alias,) = (await registry.read()).aliases
    return alias


async def test_a_canary_is_kept_with_its_exact_weight_and_terms(registry: AdapterRegistry) -> None:
    canary = Canary(NEW, 1 / 3, CanaryTerms(7, 0.1 + 0.2, 0.05, 1.25))

    alias = await registry.set_canary(PROD, canary, expected=OLD)

    assert alias == Alias(PROD, OLD, 2, canary)
    assert await alias_of(registry) == alias
    assert (await registry.read()).alias_targets == {OLD, NEW}


async def test_each_canary_change_increments_the_revision_and_repetitions_do_not(registry: AdapterRegistry) -> None:
    for weight, revision in ((0.1, 2), (0.1, 2), (0.5, 3)):
        assert (await registry.set_canary(PROD, Canary(NEW, weight))).revision == revision
    for revision in (4, 4):
        assert await registry.set_canary(PROD, None) == Alias(PROD, OLD, revision)


async def test_a_promotion_ends_the_canary_and_keeps_the_previous_version(registry: AdapterRegistry) -> None:
    await registry.set_canary(PROD, TENTH)
    assert await registry.move_alias(PROD, NEW, expected=OLD) == Alias(PROD, NEW, 3, previous=OLD)

    await registry.set_canary(PROD, Canary(THIRD, 0.1))
    assert await registry.move_alias(PROD, NEW) == Alias(PROD, NEW, 5, previous=OLD), (
        "a move to where it is ends it, too"
    )


@pytest.mark.parametrize("weight", [0, -0.1, 1.01, float("nan"), float("inf")])
async def test_a_canarys_weight_is_above_0_and_at_most_1(registry: AdapterRegistry, weight: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await registry.set_canary(PROD, Canary(NEW, weight))

    assert caught.value.code == "bad_weight"


async def test_a_canary_must_be_another_ready_version_of_the_same_adapter(registry: AdapterRegistry) -> None:
    refused = {
        OLD: (FailedPrecondition, "canary_is_stable"),
        UNREADY: (FailedPrecondition, "not_ready"),
        "triage@0123456789ab": (NotFound, "unknown_version"),
        "other@0123456789ab": (InvalidArgument, "bad_alias"),
    }
    for version, (error, code) in refused.items():
        with pytest.raises(error) as caught:
            await registry.set_canary(PROD, Canary(version, 0.1))
        assert caught.value.code == code

    assert await alias_of(registry) == Alias(PROD, OLD, 1)


async def test_a_canary_needs_an_existing_alias_with_the_expected_version(
    registry: AdapterRegistry,
) -> None:
    with pytest.raises(NotFound) as unknown:
        await registry.set_canary("triage@beta", TENTH)
    assert unknown.value.code == "unknown_alias"

    with pytest.raises(FailedPrecondition) as moved:
        await registry.set_canary(PROD, TENTH, expected=NEW)
    assert moved.value.code == "alias_moved"


async def test_a_canary_keeps_its_version_from_being_retired(registry: AdapterRegistry) -> None:
    await registry.set_canary(PROD, TENTH)

    with pytest.raises(FailedPrecondition, match=PROD):
        await registry.retire(NEW, "ann")


async def test_a_retirement_keeps_its_reason(registry: AdapterRegistry) -> None:
    await registry.retire(NEW, "ann", "worse on held-out rows")

    change = (await registry.history("triage", 1))[0]
    assert (change.kind, change.subject, change.reason) == ("retired", NEW, "worse on held-out rows")


async def test_a_rollback_ends_the_canary_before_it_changes_the_alias(registry: AdapterRegistry) -> None:
    await registry.move_alias(PROD, NEW)
    await registry.set_canary(PROD, Canary(THIRD, 0.1))

    assert await registry.roll_back(PROD) == Alias(PROD, NEW, 4, previous=OLD)
    assert await registry.roll_back(PROD) == Alias(PROD, OLD, 5, previous=NEW)
    assert await registry.roll_back(PROD) == Alias(PROD, NEW, 6, previous=OLD), "twice is there and back"


async def test_a_rollback_needs_a_previous_version(registry: AdapterRegistry) -> None:
    with pytest.raises(FailedPrecondition) as nothing:
        await registry.roll_back(PROD)
    assert nothing.value.code == "nothing_to_roll_back"

    await registry.move_alias(PROD, NEW)
    await registry.retire(OLD, "ann")
    with pytest.raises(FailedPrecondition, match=f"{OLD} is retired") as retired:
        await registry.roll_back(PROD)
    assert retired.value.code == "not_ready"

    await registry.delete(OLD, "ann")
    with pytest.raises(FailedPrecondition, match="was deleted") as deleted:
        await registry.roll_back(PROD)
    assert deleted.value.code == "nothing_to_roll_back"

    with pytest.raises(NotFound):
        await registry.roll_back("triage@beta")


async def test_a_rollback_of_an_old_revision_does_not_undo_later_changes(registry: AdapterRegistry) -> None:
    judged = await registry.set_canary(PROD, TENTH)
    await registry.move_alias(PROD, NEW)

    with pytest.raises(FailedPrecondition) as caught:
        await registry.roll_back(PROD, expected_revision=judged.revision)

    assert caught.value.code == "alias_moved"
    assert (await alias_of(registry)).version == NEW


async def test_the_history_has_old_and_new_version_author_and_reason(registry: AdapterRegistry) -> None:
    await registry.set_canary(PROD, TENTH, author="bob", reason="to see")
    await registry.roll_back(PROD, author="pointsman", reason="error rate 0.31")

    rollback, canary, alias, *_ = await registry.history("triage", 100)

    assert (alias.kind, alias.before, alias.after) == ("alias", "", OLD)
    assert (canary.kind, canary.before, canary.after) == ("canary", OLD, f"{OLD}, {NEW} at 0.1")
    assert (canary.author, canary.reason) == ("bob", "to see")
    assert (rollback.kind, rollback.before, rollback.after) == ("rollback", f"{OLD}, {NEW} at 0.1", OLD)
    assert (rollback.author, rollback.reason) == ("pointsman", "error rate 0.31")


async def test_the_counts_of_all_gateways_are_added(registry: AdapterRegistry) -> None:
    alias = await registry.set_canary(PROD, TENTH)

    await registry.add_outcomes([CanaryReport(PROD, alias.revision, OLD, RequestCounts(9, 1, 0, {40: 8}))])
    await registry.add_outcomes(
        [
            CanaryReport(PROD, alias.revision, OLD, RequestCounts(1, 0, 1, {0: 1})),
            CanaryReport(PROD, alias.revision, NEW, RequestCounts(2, 2, 0, {})),
        ]
    )

    assert await registry.canary_counts(alias) == {
        OLD: RequestCounts(10, 1, 1, {0: 1, 40: 8}),
        NEW: RequestCounts(2, 2, 0, {}),
    }


async def test_counts_in_redis_that_are_no_numbers_are_left_out(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    alias = await registry.set_canary(PROD, TENTH)
    await registry.add_outcomes([CanaryReport(PROD, alias.revision, NEW, RequestCounts(2, 2))])
    (key,) = [key async for key in bounded_redis.client.scan_iter("*counts*")]
    await bounded_redis.client.hset(key, mapping={f"{NEW} errors": "many", "alien": "x"})

    assert await registry.canary_counts(alias) == {NEW: RequestCounts(2, 0)}


async def test_counts_of_another_revision_are_ignored(registry: AdapterRegistry) -> None:
    first = await registry.set_canary(PROD, TENTH)
    await registry.add_outcomes([CanaryReport(PROD, first.revision, NEW, RequestCounts(5, 5))])
    second = await registry.set_canary(PROD, Canary(NEW, 0.5))

    await registry.add_outcomes([CanaryReport(PROD, first.revision, NEW, RequestCounts(5, 5))])

    assert await registry.canary_counts(second) == {}
    assert await registry.canary_counts(first) == {NEW: RequestCounts(5, 5)}, "what comes late is dropped"


async def test_counts_of_unknown_canaries_are_not_stored(
    registry: AdapterRegistry, bounded_redis: BoundedRedis
) -> None:
    alias = await alias_of(registry)
    before = set(await bounded_redis.client.keys("*:counts:*"))

    await registry.add_outcomes(
        [
            CanaryReport("nobody@prod", 1, NEW, RequestCounts(5)),
            CanaryReport(PROD, 99, OLD, RequestCounts(5)),
            CanaryReport(PROD, alias.revision, THIRD, RequestCounts(5)),
        ]
    )

    assert set(await bounded_redis.client.keys("*:counts:*")) == before


async def test_counts_expire(registry: AdapterRegistry, bounded_redis: BoundedRedis) -> None:
    alias = await registry.set_canary(PROD, TENTH)
    await registry.add_outcomes([CanaryReport(PROD, alias.revision, NEW, RequestCounts(5))])

    (key,) = await bounded_redis.client.keys("*:counts:*")

    assert 0 < await bounded_redis.client.ttl(key) <= 7 * 24 * 3600
