"""The retry budget: a share of recent requests, and a minimum."""

import pytest
from pointsman_gateway.engines.failover import RetryBudget

from tests.gateway.doubles.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def granted(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.spend() for _ in range(wanted))


def test_a_share_of_the_recent_requests_may_be_sent_again(clock: Clock) -> None:
    budget = RetryBudget(0.2, 0, clock)
    for _ in range(100):
        budget.count_request()
    assert granted(budget, 100) == 20


def test_few_requests_have_the_floor(clock: Clock) -> None:
    assert granted(RetryBudget(0.2, 5, clock), 100) == 5


def test_what_was_spent_comes_back_with_time(clock: Clock) -> None:
    budget = RetryBudget(0.2, 5, clock)
    granted(budget, 5)
    assert granted(budget, 1) == 0
    clock.passes(10)
    assert 0 < granted(budget, 100) < 5
    clock.passes(1000)
    assert granted(budget, 100) == 5


def test_requests_of_long_ago_count_no_more(clock: Clock) -> None:
    budget = RetryBudget(0.2, 0, clock)
    for _ in range(1000):
        budget.count_request()
    clock.passes(100)
    assert granted(budget, 10) == 0


def test_in_a_lasting_outage_retries_stay_a_share(clock: Clock) -> None:
    budget = RetryBudget(0.2, 5, clock)
    sent_again = 0
    for _ in range(5000):
        clock.passes(0.01)
        budget.count_request()
        sent_again += granted(budget, 2)
    assert sent_again <= 0.2 * 5000 + 5 + 0.1 * 50 * 5  # the minimum is replenished about every ten seconds
