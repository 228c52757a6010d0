"""Chooses paths by expected utility, and measures what the choices gain over the best single path.

The utility of an answer is its score minus its dollars divided by the dollars that a wrong answer costs. No mix of
fixed paths has a higher mean utility than the best single one, so a gain in utility is also one over every mix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman_lab.prediction.inputs import Array, Indices

ONE_SIDED_Z = 1.645
STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""The prices of a wrong answer that are tried, times a power of ten."""
MAX_PRICE_IN_ANSWERS = 1000
"""The highest price of a wrong answer that is tried, in answers of the dearest path."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is predicted for rows and what is true, each (rows, paths), so that every choice can be measured."""

    predicted: Array
    """Probabilities of a good answer, from a fit to other rows."""
    expected_usd: Array
    """The predicted dollars of each path's answer."""
    scores: Array
    usd: Array

    def rows(self, which: NDArray[np.bool_] | Indices) -> "Outcomes":
        return Outcomes(self.predicted[which], self.expected_usd[which], self.scores[which], self.usd[which])


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more utility some choices have than others on the same rows."""

    mean: float
    bound: float
    """One-sided lower bound of the mean, at 95 %."""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    shares: Array
    """By path, its share of the rows."""
    quality: float
    usd: float
    """Mean dollars of the chosen answers."""
    gain: float
    """Mean utility minus that of the best single path."""
    bound: float
    """One-sided lower bound of the gain, at 95 %."""
    gain_at_equal_cost: float
    """Mean score minus that of fixed paths, mixed at random in hindsight so that they cost the same."""
    best: int
    """The single path with the highest mean utility."""


def choose(predicted: Array, expected_usd: Array, usd_per_wrong_answer: float | Array) -> Indices:
    """Returns the path of each row, (rows,), as the policy `predicted` chooses it, at one price or one for each row.

    The first two arguments are (rows, paths).
    """
    price = np.reshape(usd_per_wrong_answer, (-1, 1))
    return np.asarray(np.argmax(predicted - expected_usd / price, axis=1))


def best_single(scores: Array, usd: Array, usd_per_wrong_answer: float) -> int:
    """Returns the path with the highest mean utility; `scores` and `usd` are (rows, paths)."""
    return int(np.argmax(scores.mean(axis=0) - usd.mean(axis=0) / usd_per_wrong_answer))


def measure_out_of_fold(outcomes: Outcomes, folds: Indices, prices: Sequence[float]) -> PolicyResult:
    """Measures the policy at the price of a wrong answer of each fold, against the best single path.

    `folds` is the fold of each row, (rows,), `prices` the price of each fold.

    That is the path that is best on the other folds, or the one that is best in hindsight if this leaves less gain: if
    paths are alike, the first is too easy to beat, since what is best by chance elsewhere is worse here.
    """
    fixed, in_hindsight = np.empty(len(folds), np.intp), np.empty(len(folds), np.intp)
    for fold, price in enumerate(prices):
        others = outcomes.rows(folds != fold)
        fixed[folds == fold] = best_single(others.scores, others.usd, price)
        in_hindsight[folds == fold] = best_single(outcomes.scores, outcomes.usd, price)
    of_rows = np.array(prices)[folds]
    results = [measure_policy(outcomes, of_rows, each) for each in (fixed, in_hindsight)]
    return min(results, key=lambda result: result.bound)


def measure_policy(outcomes: Outcomes, prices: Array, fixed: Indices) -> PolicyResult:
    """Measures the policy at each row's price of a wrong answer, (rows,), against each row's fixed path, (rows,)."""
    rows, scores, usd = np.arange(len(prices)), outcomes.scores, outcomes.usd
    chosen = choose(outcomes.predicted, outcomes.expected_usd, prices)
    gain = measure_gain(outcomes, chosen, fixed, prices)
    quality, mean_usd = float(scores[rows, chosen].mean()), float(usd[rows, chosen].mean())
    means = scores.mean(axis=0)
    return PolicyResult(
        shares=np.bincount(chosen, minlength=scores.shape[1]) / len(chosen),
        quality=quality,
        usd=mean_usd,
        gain=gain.mean,
        bound=gain.bound,
        gain_at_equal_cost=quality - float(means @ best_mix(means, usd.mean(axis=0), mean_usd)),
        best=int(np.bincount(fixed).argmax()),
    )


def measure_gain(outcomes: Outcomes, chosen: Indices, others: Indices, prices: Array) -> Gain:
    """Compares two choices of a path for each row, (rows,), at each row's price of a wrong answer, (rows,)."""
    rows, scores, usd = np.arange(len(prices)), outcomes.scores, outcomes.usd
    gains = scores[rows, chosen] - scores[rows, others] - (usd[rows, chosen] - usd[rows, others]) / prices
    mean, error = float(gains.mean()), float(gains.std(ddof=1)) / len(gains) ** 0.5
    return Gain(mean, mean - ONE_SIDED_Z * error)


def prices_to_try(costs: Array) -> list[float]:
    """Returns prices of a wrong answer: from an answer of the cheapest path that costs something, upwards.

    `costs` is (paths,): mean dollars.
    """
    if not costs.any():
        return [1.0]
    lowest, highest = costs[costs > 0].min(), MAX_PRICE_IN_ANSWERS * costs.max()
    decades = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    tried = (float(f"{step}e{decade}") for decade in decades for step in STEPS)
    return [price for price in tried if lowest <= price <= highest]


def price_for_quality(outcomes: Outcomes, prices: Sequence[float], target: float) -> float:
    """Returns the lowest price of a wrong answer at which the choices reach the mean score `target`.

    `prices` are in ascending order. If none does, it is the price with the highest mean score.
    """
    rows = np.arange(len(outcomes.scores))
    reached = 0.0, prices[-1]
    for price in prices:
        quality = float(outcomes.scores[rows, choose(outcomes.predicted, outcomes.expected_usd, price)].mean())
        if quality >= target:
            return price
        reached = max(reached, (quality, price), key=lambda found: found[0])
    return reached[1]


def best_mix(means: Array, costs: Array, usd: float) -> Array:
    """Returns the share of requests to send to each path, (paths,), for the best mean score at `usd` or less a request.

    `means` and `costs` are each path's mean score and dollars. More than two paths never do better than two.
    """
    best, shares = -np.inf, np.zeros(len(costs))
    for one in range(len(costs)):
        for other in range(len(costs)):
            if costs[one] > usd + 1e-15:
                continue
            gap = costs[other] - costs[one]
            share = min(1.0, (usd - costs[one]) / gap) if gap > 0 else 0.0
            mean = (1 - share) * means[one] + share * means[other]
            if mean > best:
                best, shares = mean, np.zeros(len(costs))
                shares[one] += 1 - share
                shares[other] += share
    return shares
