"""Confidence limits that hold at any time: their formula, and how often they are wrong if they are checked after each
row."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_servicekit.confidence_sequences import (
    BETS,
    WEIGHTS,
    limits,
    log_evidence_above,
    lower_limit,
    upper_limit,
)
from pointsman_servicekit.statistics import one_sided_z, wilson_interval
from scipy import stats  # type: ignore[import-untyped]  # it ships no types

ALPHA = 0.05


def shifted(tested: float, bet: float) -> float:
    """Returns the mean whose log-odds are those of `tested` plus the bet."""
    return 1 / (1 + math.exp(-(math.log(tested / (1 - tested)) + bet)))


@pytest.mark.parametrize(("hits", "count"), [(20, 20), (19, 20), (86, 100), (3, 50), (830, 1000)])
def test_the_limit_is_where_the_mixture_of_scipys_likelihood_ratios_reaches_the_threshold(
    hits: int, count: int
) -> None:
    low = lower_limit(hits / count, count, ALPHA)
    likelihoods = [stats.binom.pmf(hits, count, shifted(low, bet)) for bet in BETS]
    mixture = sum(weight * each for weight, each in zip(WEIGHTS, likelihoods, strict=True))
    assert mixture / stats.binom.pmf(hits, count, low) == pytest.approx(1 / ALPHA, rel=1e-3)


@pytest.mark.parametrize("tested", [0.02, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("count", [1, 20, 150])
def test_the_expected_evidence_against_the_true_mean_is_1(tested: float, count: int) -> None:
    """This makes the evidence an e-value. For scores between 0 and 1 with the same mean it is smaller."""
    terms = [
        float(stats.binom.pmf(hits, count, tested)) * math.exp(log_evidence_above(tested, hits / count, count))
        for hits in range(count + 1)
    ]
    assert sum(terms) == pytest.approx(1, abs=1e-6)
    halves = [
        float(stats.binom.pmf(hits, 2 * count, tested)) * math.exp(log_evidence_above(tested, hits / 2 / count, count))
        for hits in range(2 * count + 1)
    ]
    assert sum(halves) < 1


def ever_above(mean: float, looks: int, limit_is_above: dict[tuple[int, int], bool]) -> float:
    """Returns the exact probability that the limit is above the mean at one of the checks, for ratings of 0 and 1."""
    alive, crossed = {0: 1.0}, 0.0
    for count in range(1, looks + 1):
        reached: dict[int, float] = {}
        for hits, probability in alive.items():
            reached[hits] = reached.get(hits, 0.0) + probability * (1 - mean)
            reached[hits + 1] = reached.get(hits + 1, 0.0) + probability * mean
        crossed += sum(probability for hits, probability in reached.items() if limit_is_above[count, hits])
        alive = {hits: probability for hits, probability in reached.items() if not limit_is_above[count, hits]}
    return crossed


@pytest.mark.parametrize("mean", [0.05, 0.7, 0.9])
def test_after_each_of_250_looks_the_limit_keeps_its_word_and_wilsons_does_not(mean: float) -> None:
    pairs = [(count, hits) for count in range(1, 251) for hits in range(count + 1)]
    needed, z = math.log(1 / ALPHA), one_sided_z(1 - ALPHA)
    sequence = {
        (count, hits): hits > count * mean and log_evidence_above(mean, hits / count, count) >= needed
        for count, hits in pairs
    }
    wilson = {(count, hits): wilson_interval(hits / count, count, z)[0] > mean for count, hits in pairs}
    assert 0.005 < ever_above(mean, 250, sequence) <= ALPHA
    assert ever_above(mean, 250, wilson) > 3 * ALPHA


def test_graded_ratings_of_which_each_decides_on_the_next_are_covered_too() -> None:
    """After a good rating the next ones vary more, but their mean stays 0.75. A seed makes the streams always the
    same.
    """
    draw, wrong = random.Random(1), 0
    for _ in range(400):
        total, rating, looked_wrong = 0.0, 0.0, False
        for count in range(1, 201):
            rating = float(draw.random() < 0.75) if rating >= 0.75 else draw.choice((0.5, 0.75, 1.0))
            total += rating
            above, below = (
                log_evidence_above(0.75, total / count, count),
                log_evidence_above(0.25, 1 - total / count, count),
            )
            looked_wrong |= max(above, below) >= math.log(2 / ALPHA)
        wrong += looked_wrong
    assert wrong <= 400 * ALPHA


def test_enough_ratings_make_any_difference_visible() -> None:
    assert lower_limit(0.805, 10**6, ALPHA) > 0.8
    assert lower_limit(1.0, 20, ALPHA) == pytest.approx(0.8075, abs=1e-4)  # the example of docs/routing.md


def test_without_ratings_nothing_is_excluded() -> None:
    assert limits(0.0, 0, 0.95) == (0.0, 1.0)


@given(st.floats(0, 1), st.floats(0, 1e6), st.sampled_from([0.5, 0.05, 0.0125, 1e-6]))
def test_the_limits_enclose_the_mean(mean: float, count: float, alpha: float) -> None:
    assert 0 <= lower_limit(mean, count, alpha) <= mean <= upper_limit(mean, count, alpha) <= 1


@given(st.floats(0.05, 0.95), st.integers(5, 10_000))
def test_a_limit_for_any_time_is_wider_than_one_for_a_single_look(mean: float, count: int) -> None:
    assert lower_limit(mean, count, ALPHA) < wilson_interval(mean, count, one_sided_z(1 - ALPHA))[0]
