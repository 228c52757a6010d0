"""Canary analysis: when a canary is rolled back, and when it is not."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_lora_server.adapters.promotion import roll_back_failing_canaries, rollback_reason
from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, CanaryTerms, DesiredState, Phase
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts

TERMS = CanaryTerms()
OLD, NEW, THIRD = (f"triage@{digit * 12}" for digit in "123")
PROD = "triage@prod"


def test_a_canary_that_fails_more_often_is_rolled_back_with_figures_in_the_reason() -> None:
    assert (
        rollback_reason(TERMS, RequestCounts(58), RequestCounts(40, errors=12))
        == "error rate 0.30 of 40 against 0.00 of 58"
    )


def test_a_canary_as_good_as_the_stable_version_stays() -> None:
    assert rollback_reason(TERMS, RequestCounts(500, 25, 10), RequestCounts(500, 25, 10)) is None


def test_a_small_difference_is_not_significant_and_a_large_one_is() -> None:
    assert rollback_reason(TERMS, RequestCounts(20), RequestCounts(20, errors=1)) is None
    assert rollback_reason(TERMS, RequestCounts(2000), RequestCounts(2000, errors=100)) is not None


def test_there_is_no_verdict_before_both_have_enough_requests() -> None:
    assert rollback_reason(TERMS, RequestCounts(500), RequestCounts(19, errors=19)) is None
    assert rollback_reason(TERMS, RequestCounts(19), RequestCounts(40, errors=12)) is None
    assert rollback_reason(CanaryTerms(min_requests=10), RequestCounts(10), RequestCounts(10, errors=10)) is not None


def test_a_canary_that_always_fails_does_not_wait_for_the_stable_version() -> None:
    assert (
        rollback_reason(TERMS, RequestCounts(), RequestCounts(20, errors=20))
        == "error rate 1.00 of 20 against 0.00 of 0"
    )
    assert rollback_reason(TERMS, RequestCounts(3), RequestCounts(20, errors=18)) is not None


def test_if_both_versions_fail_the_canary_is_kept() -> None:
    assert rollback_reason(TERMS, RequestCounts(5, errors=5), RequestCounts(20, errors=20)) is None
    assert rollback_reason(TERMS, RequestCounts(500, errors=500), RequestCounts(500, errors=500)) is None


def test_refused_answers_are_counted_relative_to_answers() -> None:
    """Half of the requests failed on both sides, so the rates of invalid answers are 0.20 and 0.60."""
    reason = rollback_reason(TERMS, RequestCounts(200, 100, 20), RequestCounts(200, 100, 60))

    assert reason == "rate of invalid answers 0.60 of 100 against 0.20 of 100"


def test_a_canary_that_callers_rate_worse_is_rolled_back_once_enough_have_rated_both() -> None:
    def rated(answers: int, mean: float) -> RequestCounts:
        return RequestCounts(100, rated=answers, rating=round(1000 * mean * answers))

    assert rollback_reason(TERMS, rated(60, 0.9), rated(60, 0.4)) == "mean rating 0.40 of 60 against 0.90 of 60"
    assert rollback_reason(TERMS, rated(60, 0.9), rated(19, 0.0)) is None
    assert rollback_reason(TERMS, rated(60, 0.9), rated(60, 0.85)) is None
    assert rollback_reason(CanaryTerms(max_rating_loss=0.6), rated(60, 0.9), rated(60, 0.4)) is None


def test_a_slower_canary_is_rolled_back_and_one_within_the_ratio_stays() -> None:
    stable = RequestCounts(100, milliseconds={36: 100})  # about 470 ms

    assert rollback_reason(TERMS, stable, RequestCounts(100, milliseconds={38: 100})) is None  # 1.41 times
    reason = rollback_reason(TERMS, stable, RequestCounts(100, milliseconds={44: 100}))  # 4 times
    assert reason == "p95 2030 ms of 100 against 508 ms of 100"


def test_a_configured_margin_is_respected() -> None:
    canary = RequestCounts(400, errors=120, milliseconds={44: 280})
    stable = RequestCounts(400, milliseconds={36: 400})

    assert rollback_reason(CanaryTerms(max_error_excess=0.2, max_latency_ratio=5), stable, canary) is not None
    assert rollback_reason(CanaryTerms(max_error_excess=0.3, max_latency_ratio=5), stable, canary) is None


def test_equal_canaries_are_rarely_rolled_back_despite_repeated_tests() -> None:
    chance = random.Random(1)
    taken_back = 0
    for number in range(300):
        rate = (0.02, 0.05, 0.1)[number % 3]
        requests, errors = Counter[bool](), Counter[bool]()
        for _ in range(50):
            for _ in range(20):
                canary = chance.random() < 0.3
                requests[canary] += 1
                errors[canary] += chance.random() < rate
            if rollback_reason(
                TERMS, RequestCounts(requests[False], errors[False]), RequestCounts(requests[True], errors[True])
            ):
                taken_back += 1
                break

    assert taken_back <= 6  # 2 %


buckets = st.dictionaries(st.integers(0, 80), st.integers(1, 1000), min_size=1, max_size=20)

up_to_a_million = st.integers(0, 10**6)
a_count = st.builds(
    RequestCounts,
    up_to_a_million,
    up_to_a_million,
    up_to_a_million,
    buckets | st.just({}),
    up_to_a_million,
    up_to_a_million,
)


@given(a_count, a_count)
def test_any_report_leads_to_a_verdict(stable: RequestCounts, canary: RequestCounts) -> None:
    reason = rollback_reason(TERMS, stable, canary)

    assert reason is None or reason.split()[0] in ("error", "rate", "mean", "p95")


PATIENT = 5.0  # timeout of a call in seconds, for a busy machine


@pytest.fixture
async def registry(valkey: Any) -> AsyncIterator[AdapterRegistry]:
    """Yields a registry with an alias that points to the first of three versions."""
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        registry = AdapterRegistry(redis, "tiny-base")
        for digit in "123":
            version = AdapterVersion("triage", digit * 64, "tiny-base", 2, ("q_proj",), 100, 1)
            await registry.add_version(version, "", False, "ann")
            await registry.set_phase(version.version, Phase.READY)
        await registry.move_alias(PROD, OLD)
        yield registry


async def with_a_bad_canary(registry: AdapterRegistry) -> DesiredState:
    alias = await registry.set_canary(PROD, Canary(NEW, 0.5))
    await registry.add_outcomes(
        [
            CanaryReport(PROD, alias.revision, OLD, RequestCounts(58)),
            CanaryReport(PROD, alias.revision, NEW, RequestCounts(40, 12)),
        ]
    )
    return await registry.read()


async def test_a_bad_canary_is_ended_with_a_reason_in_the_history(registry: AdapterRegistry) -> None:
    await roll_back_failing_canaries(registry, await with_a_bad_canary(registry))

    assert (await registry.read()).aliases == (Alias(PROD, OLD, 3),)
    change = (await registry.history("triage", 1))[0]
    assert (change.kind, change.author) == ("rollback", "pointsman")
    assert change.reason == "error rate 0.30 of 40 against 0.00 of 58"


async def test_a_late_analysis_does_not_undo_changes(registry: AdapterRegistry) -> None:
    desired = await with_a_bad_canary(registry)
    for change in (
        registry.move_alias(PROD, THIRD),
        registry.move_alias(PROD, NEW),
        registry.set_canary(PROD, Canary(OLD, 0.1)),
    ):
        now = await change

        await roll_back_failing_canaries(registry, desired)

        assert (await registry.read()).aliases == (now,)


async def test_of_many_servers_one_rolls_back(registry: AdapterRegistry) -> None:
    await registry.move_alias(PROD, THIRD)  # so that a second rollback would have a target
    await registry.move_alias(PROD, OLD)
    desired = await with_a_bad_canary(registry)

    for _ in range(3):
        await roll_back_failing_canaries(registry, desired)

    (alias,) = (await registry.read()).aliases
    assert (alias.version, alias.canary) == (OLD, None)


async def test_a_new_weight_resets_the_counts(registry: AdapterRegistry) -> None:
    await with_a_bad_canary(registry)
    now = await registry.set_canary(PROD, Canary(NEW, 0.1))

    await roll_back_failing_canaries(registry, await registry.read())

    assert (await registry.read()).aliases == (now,)


async def test_a_canary_that_cannot_be_served_is_ended(registry: AdapterRegistry) -> None:
    await registry.set_canary(PROD, Canary(NEW, 0.5))
    await registry.set_phase(NEW, Phase.FAILED, error_code="damaged", error="its file is gone")

    await roll_back_failing_canaries(registry, await registry.read())

    assert (await registry.read()).aliases[0].canary is None
    assert (await registry.history("triage", 1))[0].reason == "it cannot be served any more: its file is gone"


async def test_aliases_without_a_canary_are_not_changed(registry: AdapterRegistry) -> None:
    before = await registry.read()

    await roll_back_failing_canaries(registry, before)

    assert await registry.read() is before
