"""The circuit breaker: what opens it, how it probes the engine, and which errors it ignores."""

import pytest
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.engine_config import BreakerConfig

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


def test_consecutive_failures_open_it(breaker: Breaker) -> None:
    assert not fails(breaker, 2)
    assert breaker.may_enter()
    assert fails(breaker, 1)
    assert not breaker.may_enter()
    assert breaker.open
    assert breaker.cooldown_left == 5


def test_a_success_resets_consecutive_failures(breaker: Breaker) -> None:
    fails(breaker, 2)
    succeeds(breaker)
    assert not fails(breaker, 2)
    assert breaker.closed


def test_a_high_failure_rate_opens_it_without_consecutive_failures(breaker: Breaker) -> None:
    for _ in range(4):
        succeeds(breaker)
        fails(breaker, 1)
    assert breaker.closed  # with so few requests the failure rate is not significant
    succeeds(breaker)
    assert fails(breaker, 1)


def test_old_failures_are_forgotten(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        succeeds(breaker)
        fails(breaker, 1)
    clock.passes(11)
    for _ in range(4):
        succeeds(breaker)
        assert not fails(breaker, 1)
    assert breaker.closed


def test_after_the_cooldown_exactly_one_probe_is_allowed(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    clock.passes(4.9)
    assert not breaker.may_enter()
    clock.passes(0.2)
    assert breaker.may_enter()
    assert not breaker.open  # so that a load balancer sends the request that serves as a probe
    breaker.enter()
    assert not breaker.may_enter()


def test_a_successful_probe_closes_it(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    clock.passes(5)
    assert succeeds(breaker)
    assert breaker.closed
    assert not fails(breaker, 2)


def test_each_failed_probe_doubles_the_cooldown_up_to_a_maximum(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    rests = []
    for _ in range(4):
        rests.append(breaker.cooldown_left)
        clock.passes(breaker.cooldown_left)
        assert fails(breaker, 1)
    assert rests == [5, 10, 15, 15]


def test_a_probe_without_a_result_allows_another(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, 3)
    clock.passes(5)
    breaker.undecided(breaker.enter())
    assert breaker.may_enter()
    assert not breaker.closed


def test_requests_from_before_it_opened_are_ignored(breaker: Breaker, clock: Clock) -> None:
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


def test_a_disabled_breaker_stays_closed(breaker: Breaker) -> None:
    off = TERMS.model_copy(update={"enabled": False})
    for _ in range(50):
        assert not breaker.failed(breaker.enter(), off)
    assert breaker.closed
