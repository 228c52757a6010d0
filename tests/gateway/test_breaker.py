"""The circuit breaker: what opens it, how it probes the engine, and which errors it ignores."""

import pytest
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.schema import BreakerConfig

from tests.gateway.doubles.clocks import Clock

TERMS = BreakerConfig(
    consecutive_failures=3,
    failure_rate=0.5,
    window_seconds=10,
    min_requests=10,
    open_duration_seconds=5,
    max_open_duration_seconds=15,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def fails(breaker: Breaker, times: int) -> bool:
    return [breaker.failed(breaker.enter(), TERMS) for _ in range(times)][-1]


def succeeds(breaker: Breaker, times: int = 1) -> bool:
    return [breaker.succeeded(breaker.enter(), TERMS) for _ in range(times)][-1]


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    assert not fails(breaker, 2)
    assert breaker.may_enter()
    assert fails(breaker, 1)
    assert not breaker.may_enter()
    assert breaker.open
    assert breaker.cooldown_left == 5


def test_a_success_in_between_starts_the_row_anew(breaker: Breaker) -> None:
    fails(breaker, 2)
    succeeds(breaker)
    assert not fails(breaker, 2)
    assert breaker.closed


def test_half_of_the_recent_ones_failing_opens_it_though_never_three_in_a_row(breaker: Breaker) -> None:
    for _ in range(4):
        succeeds(breaker)
        fails(breaker, 1)
    assert breaker.closed  # with so few requests the failure rate is not significant
    succeeds(breaker)
    assert fails(breaker, 1)


def test_what_failed_long_ago_is_forgotten(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        succeeds(breaker)
        fails(breaker, 1)
    clock.passes(11)
    for _ in range(4):
        succeeds(breaker)
        assert not fails(breaker, 1)
    assert breaker.closed


def test_after_its_rest_one_and_only_one_may_try(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    clock.passes(4.9)
    assert not breaker.may_enter()
    clock.passes(0.2)
    assert breaker.may_enter()
    assert not breaker.open  # so that a load balancer sends the request that serves as a probe
    breaker.enter()
    assert not breaker.may_enter()


def test_a_trial_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    clock.passes(5)
    assert succeeds(breaker)
    assert breaker.closed
    assert not fails(breaker, 2)


def test_each_trial_that_fails_doubles_the_rest_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    rests = []
    for _ in range(4):
        rests.append(breaker.cooldown_left)
        clock.passes(breaker.cooldown_left)
        assert fails(breaker, 1)
    assert rests == [5, 10, 15, 15]


def test_a_trial_without_a_result_lets_the_next_one_try(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    clock.passes(5)
    breaker.undecided(breaker.enter())
    assert breaker.may_enter()
    assert not breaker.closed


def test_what_began_before_it_opened_changes_nothing(breaker: Breaker, clock: Clock) -> None:
    slow_success, slow_failure = breaker.enter(), breaker.enter()
    fails(breaker, 3)
    clock.passes(5)
    trial = breaker.enter()
    assert not breaker.succeeded(slow_success, TERMS)
    assert not breaker.failed(slow_failure, TERMS)
    breaker.undecided(slow_failure)
    assert not breaker.closed
    assert not breaker.may_enter()  # the probe is still in flight
    assert breaker.succeeded(trial, TERMS)


def test_one_that_is_switched_off_stays_closed(breaker: Breaker) -> None:
    off = TERMS.model_copy(update={"enabled": False})
    for _ in range(50):
        assert not breaker.failed(breaker.enter(), off)
    assert breaker.closed
