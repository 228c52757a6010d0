"""When a canary is taken back, and when not."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, CanaryTerms, DesiredState, Phase
from pointsman_lora_server.judging import excess, judge, quantile, verdict, wilson
from pointsman_lora_server.registry import Counts, Outcomes, Registry
from pointsman_servicekit.bounded_redis import open_redis

TERMS = CanaryTerms()
OLD, NEW, THIRD = (f"triage@{digit * 12}" for digit in "123")
PROD = "triage@prod"


def test_a_canary_that_fails_more_often_is_taken_back_in_words_with_figures() -> None:
    assert verdict(TERMS, Counts(58), Counts(40, errors=12)) == "error rate 0.30 of 40 against 0.00 of 58"


def test_a_canary_as_good_as_the_stable_version_stays() -> None:
    assert verdict(TERMS, Counts(500, 25, 10), Counts(500, 25, 10)) is None


def test_one_error_too_many_may_be_chance_and_a_hundred_times_as_many_are_none() -> None:
    assert verdict(TERMS, Counts(20), Counts(20, errors=1)) is None
    assert verdict(TERMS, Counts(2000), Counts(2000, errors=100)) is not None


def test_nothing_is_said_before_both_have_answered_enough() -> None:
    assert verdict(TERMS, Counts(500), Counts(19, errors=19)) is None
    assert verdict(TERMS, Counts(19), Counts(40, errors=12)) is None
    assert verdict(CanaryTerms(min_requests=10), Counts(10), Counts(10, errors=10)) is not None


def test_a_canary_that_always_fails_does_not_wait_for_the_stable_version() -> None:
    assert verdict(TERMS, Counts(), Counts(20, errors=20)) == "error rate 1.00 of 20 against 0.00 of 0"
    assert verdict(TERMS, Counts(3), Counts(20, errors=18)) is not None


def test_where_everything_fails_it_is_not_the_canary() -> None:
    assert verdict(TERMS, Counts(5, errors=5), Counts(20, errors=20)) is None
    assert verdict(TERMS, Counts(500, errors=500), Counts(500, errors=500)) is None


def test_answers_that_a_validator_refuses_count_among_those_that_came() -> None:
    """Half of the requests failed on both sides, so that the rates are 0.20 and 0.60 of what came."""
    reason = verdict(TERMS, Counts(200, 100, 20), Counts(200, 100, 60))

    assert reason == "rate of invalid answers 0.60 of 100 against 0.20 of 100"


def test_a_slower_canary_is_taken_back_and_one_within_the_ratio_stays() -> None:
    stable = Counts(100, milliseconds={36: 100})  # about 470 ms

    assert verdict(TERMS, stable, Counts(100, milliseconds={38: 100})) is None  # 1.41 times
    reason = verdict(TERMS, stable, Counts(100, milliseconds={44: 100}))  # 4 times
    assert reason == "p95 2030 ms of 100 against 508 ms of 100"


def test_a_wider_margin_is_kept_to() -> None:
    canary = Counts(400, errors=120, milliseconds={44: 280})
    stable = Counts(400, milliseconds={36: 400})

    assert verdict(CanaryTerms(max_error_excess=0.2, max_latency_ratio=5), stable, canary) is not None
    assert verdict(CanaryTerms(max_error_excess=0.3, max_latency_ratio=5), stable, canary) is None


def test_equal_canaries_are_rarely_taken_back_however_often_one_looks() -> None:
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
            if verdict(TERMS, Counts(requests[False], errors[False]), Counts(requests[True], errors[True])):
                taken_back += 1
                break

    assert taken_back <= 6  # 2 %


def test_the_limits_are_those_of_newcombes_tables() -> None:
    """15 of 148 (Statistics in Medicine 17, 857-872, table I), and 56 of 70 less 48 of 80 (873-890, table II)."""
    assert wilson(15, 148, 1.96) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert excess((48, 56), (80, 70), 1.96) == pytest.approx(0.0524, abs=5e-5)


def test_limits_of_nothing_of_none_and_of_all() -> None:
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == 1


buckets = st.dictionaries(st.integers(0, 80), st.integers(1, 1000), min_size=1, max_size=20)


@given(buckets, st.floats(0, 1), st.floats(0, 1))
def test_a_quantile_lies_in_the_buckets_and_rises_with_its_share(
    counts: dict[int, int], one: float, two: float
) -> None:
    low, high = sorted((one, two))

    assert quantile(counts, low) <= quantile(counts, high) * (1 + 1e-9)
    assert 2 ** ((min(counts) - 1) / 4) * (1 - 1e-9) <= quantile(counts, low)
    assert quantile(counts, high) <= 2 ** (max(counts) / 4) * (1 + 1e-9)


a_count = st.builds(Counts, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), buckets | st.just({}))


@given(a_count, a_count)
def test_whatever_gateways_report_there_is_a_verdict(stable: Counts, canary: Counts) -> None:
    reason = verdict(TERMS, stable, canary)

    assert reason is None or reason.split()[0] in ("error", "rate", "p95")


PATIENT = 5.0  # seconds a call, on a busy machine


@pytest.fixture
async def registry(valkey: Any) -> AsyncIterator[Registry]:
    """With an alias that points to the first of three versions."""
    async with open_redis(valkey.url, lambda up: None, PATIENT) as redis:
        registry = Registry(redis, "tiny-base")
        for digit in "123":
            version = AdapterVersion("triage", digit * 64, "tiny-base", 2, ("q_proj",), 100, 1)
            await registry.record(version, "", False, "ann")
            await registry.stand(version.version, Phase.READY)
        await registry.move(PROD, OLD)
        yield registry


async def with_a_bad_canary(registry: Registry) -> DesiredState:
    alias = await registry.set_canary(PROD, Canary(NEW, 0.5))
    await registry.count(
        [
            Outcomes(PROD, alias.revision, OLD, Counts(58)),
            Outcomes(PROD, alias.revision, NEW, Counts(40, 12)),
        ]
    )
    return await registry.read()


async def test_a_bad_canary_ends_and_the_history_says_why(registry: Registry) -> None:
    await judge(registry, await with_a_bad_canary(registry))

    assert (await registry.read()).aliases == (Alias(PROD, OLD, 3),)
    change = (await registry.history("triage", 1))[0]
    assert (change.kind, change.author) == ("rollback", "pointsman")
    assert change.reason == "error rate 0.30 of 40 against 0.00 of 58"


async def test_a_judge_that_comes_late_undoes_nothing(registry: Registry) -> None:
    desired = await with_a_bad_canary(registry)
    for change in (registry.move(PROD, THIRD), registry.move(PROD, NEW), registry.set_canary(PROD, Canary(OLD, 0.1))):
        now = await change

        await judge(registry, desired)

        assert (await registry.read()).aliases == (now,)


async def test_of_many_judges_one_takes_it_back(registry: Registry) -> None:
    await registry.move(PROD, THIRD)  # so that a second rollback would find where to go
    await registry.move(PROD, OLD)
    desired = await with_a_bad_canary(registry)

    for _ in range(3):
        await judge(registry, desired)

    (alias,) = (await registry.read()).aliases
    assert (alias.version, alias.canary) == (OLD, None)


async def test_a_new_weight_begins_a_new_count(registry: Registry) -> None:
    await with_a_bad_canary(registry)
    now = await registry.set_canary(PROD, Canary(NEW, 0.1))

    await judge(registry, await registry.read())

    assert (await registry.read()).aliases == (now,)


async def test_a_canary_that_cannot_be_served_any_more_ends(registry: Registry) -> None:
    await registry.set_canary(PROD, Canary(NEW, 0.5))
    await registry.stand(NEW, Phase.FAILED, error_code="damaged", error="its file is gone")

    await judge(registry, await registry.read())

    assert (await registry.read()).aliases[0].canary is None
    assert (await registry.history("triage", 1))[0].reason == "it cannot be served any more: its file is gone"


async def test_aliases_without_a_canary_are_left_alone(registry: Registry) -> None:
    before = await registry.read()

    await judge(registry, before)

    assert await registry.read() is before
