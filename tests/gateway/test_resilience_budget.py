"""The retry budget: a share of the recent requests, but at least a minimum."""

import pytest
from pointsman_gateway.engines.failover import RetryBudget

from tests.gateway.doubles.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def granted(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.spend() for _ in range(wanted))


def test_a_share_of_recent_requests_may_be_retried(clock: Clock) -> None:
    budget = RetryBudget(0.2, 0, clock)
    for _ in range(100):
        budget.count_request()
    assert granted(budget, 100) == 20


def test_with_few_requests_the_minimum_applies(clock: Clock) -> None:
    assert granted(RetryBudget(0.2, 5, clock), 100) == 5


def test_spent_budget_is_replenished_over_time(clock: Clock) -> None:
    budget = RetryBudget(0.2, 5, clock)
    granted(budget, 5)
    assert granted(budget, 1) == 0
    clock.passes(10)
    assert 0 < granted(budget, 100) < 5
    clock.passes(1000)
    assert granted(budget, 100) == 5


def test_old_requests_do_not_count(clock: Clock) -> None:
    budget = RetryBudget(0.2, 0, clock)
    for _ in range(1000):
        budget.count_request()
    clock.passes(100)
    assert granted(budget, 10) == 0


def test_during_a_long_outage_retries_stay_within_their_share(clock: Clock) -> None:
    budget = RetryBudget(0.2, 5, clock)
    sent_again = 0
    for _ in range(5000):
        clock.passes(0.01)
        budget.count_request()
        sent_again += granted(budget, 2)
    assert sent_again <= 0.2 * 5000 + 5 + 0.1 * 50 * 5  # the minimum is replenished about every ten seconds
