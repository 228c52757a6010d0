"""Among eleven paths whose true probabilities and costs are known, the choice by utility gains what it promises."""

from collections.abc import Iterator

import numpy as np
import pytest
from pointsman_lab.prediction.choice import Outcomes, best_mix, best_single, choose, price_for_quality, prices_to_try
from pointsman_lab.prediction.cost import fit_cost
from pointsman_lab.prediction.evaluation import Evaluation
from pointsman_lab.prediction.inputs import Array, Inputs
from pointsman_lab.prediction.policy import Target
from pointsman_lab.prediction.quality import fit
from pointsman_lab.prediction.report import predict
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads of BLAS busy-wait for each other, and the matrices are small."""
    with threadpool_limits(limits=1):
        yield


class Eleven:
    """Draws requests that eleven paths answer with known probabilities; `spread` says how much requests differ."""

    def __init__(self, spread: float) -> None:
        random = np.random.default_rng(11)
        self.usd = np.geomspace(0.0001, 0.005, 11)
        base, strengths = np.linspace(-0.2, 2.0, 11), random.normal(0, spread, (6, 11))
        vectors = random.normal(0, 1, (2400, 6))
        self.vectors, self.lengths = vectors, np.exp(random.uniform(4, 8, 2400))
        self.true = 1 / (1 + np.exp(-(base + vectors @ strengths)))
        self.scores = (random.random(self.true.shape) < self.true).astype(float)
        wordy = np.exp(0.5 * self.vectors[:, :1] + np.log(self.lengths / 500)[:, None] / 2)
        self.true_usd = self.usd * (wordy / wordy.mean() if spread else np.ones_like(wordy))

    def test(self, learned: int) -> Outcomes:
        """Returns what is predicted from the first rows for the others, and their true probabilities and costs."""
        inputs = Inputs.of_one_task(self.vectors, self.lengths)
        own, others = inputs.rows(np.arange(learned)), inputs.rows(np.arange(learned, len(self.vectors)))
        predicted = np.stack([fit(own, self.scores[:learned, at]).of(others) for at in range(11)], axis=1)
        costs = [fit_cost(own, self.true_usd[:learned, at]).of(others) for at in range(11)]
        return Outcomes(predicted, np.stack(costs, axis=1), self.true[learned:], self.true_usd[learned:])


def gains_at_equal_cost(outcomes: Outcomes, choices: list[np.ndarray]) -> list[float]:
    """Returns what each choice of paths gains in probability over the best mix of fixed paths that costs as much."""
    rows, means, costs = np.arange(len(outcomes.usd)), outcomes.scores.mean(axis=0), outcomes.usd.mean(axis=0)
    gains = []
    for chosen in choices:
        usd = float(outcomes.usd[rows, chosen].mean())
        gains.append(float(outcomes.scores[rows, chosen].mean() - means @ best_mix(means, costs, usd)))
    return gains


def by_tolerance(outcomes: Outcomes, usd: Array, tolerance: float) -> np.ndarray:
    """Returns the cheapest path whose predicted quality is at most the tolerance below the best one's."""
    best = outcomes.predicted.max(axis=1, keepdims=True)
    return np.asarray(np.where(outcomes.predicted >= best - tolerance, usd, np.inf).argmin(axis=1))


@pytest.fixture(scope="module")
def eleven() -> tuple[Eleven, Outcomes]:
    known = Eleven(spread=0.7)
    return known, known.test(learned=400)


def test_among_eleven_paths_utility_gains_where_a_tolerance_gains_less(eleven: tuple[Eleven, Outcomes]) -> None:
    known, outcomes = eleven
    utility = [choose(outcomes.predicted, outcomes.expected_usd, price) for price in prices_to_try(known.usd)]
    tolerance = [by_tolerance(outcomes, known.usd, each) for each in np.linspace(0, 0.6, 31)]
    best, of_tolerance = (max(gains_at_equal_cost(outcomes, rule)) for rule in (utility, tolerance))
    assert best > 0.1
    assert best > of_tolerance + 0.02


def test_dollars_that_are_expected_of_the_chosen_paths_are_nearly_the_true_ones(
    eleven: tuple[Eleven, Outcomes],
) -> None:
    _, outcomes = eleven
    rows = np.arange(len(outcomes.usd))
    for price in (0.002, 0.01, 0.05):
        chosen = choose(outcomes.predicted, outcomes.expected_usd, price)
        expected, true = outcomes.expected_usd[rows, chosen].mean(), outcomes.usd[rows, chosen].mean()
        assert expected == pytest.approx(true, rel=0.05)


def test_a_quality_is_reached_with_less_than_half_of_the_price(eleven: tuple[Eleven, Outcomes]) -> None:
    known, outcomes = eleven
    means, rows = outcomes.scores.mean(axis=0), np.arange(len(outcomes.usd))
    price = price_for_quality(outcomes, prices_to_try(known.usd), 0.95 * means.max())
    chosen = choose(outcomes.predicted, outcomes.expected_usd, price)
    single = best_single(outcomes.scores, outcomes.usd, 1e9)
    assert outcomes.scores[rows, chosen].mean() >= 0.95 * means.max()
    assert outcomes.usd[rows, chosen].mean() < 0.5 * outcomes.usd[:, single].mean()


def test_where_nothing_can_be_gained_the_policy_is_refused() -> None:
    known = Eleven(spread=0.0)
    rows, paths = slice(0, 150), (0, 5, 10)
    scores, usd = known.scores[rows][:, paths], known.true_usd[rows][:, paths]
    asked = Evaluation([""] * 150, ("a", "b", "c"), scores, usd, usd.mean(axis=0), known.lengths[rows])
    inputs = Inputs.of_one_task(known.vectors[rows], asked.lengths)
    report = predict(asked, inputs, ("triage",), "tiny", Target())
    assert "the policy is not better than always" in report.failure
