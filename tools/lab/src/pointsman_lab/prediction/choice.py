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
"""The dollars of a wrong answer that are tried are these numbers times powers of ten."""
MAX_PRICE_IN_ANSWERS = 1000
"""The highest dollars of a wrong answer that are tried, as a multiple of the dearest path's mean dollars per answer."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Predicted and true scores and costs of each path's answer to each row; all arrays are (rows, paths)."""

    predicted: Array
    """The predicted probability of a good answer, 0 to 1, from a fit to other rows."""
    expected_usd: Array
    """The predicted dollars of the answer, from a fit to other rows."""
    scores: Array
    """The true score, 0 to 1."""
    usd: Array
    """The true dollars."""

    def rows(self, which: NDArray[np.bool_] | Indices) -> "Outcomes":
        return Outcomes(self.predicted[which], self.expected_usd[which], self.scores[which], self.usd[which])


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much the mean utility of one choice of paths exceeds that of another choice on the same requests.

    `bound` is the 95 % lower confidence bound. The utility of an answer is its score minus its dollars divided by the
    dollars that a wrong answer costs.
    """

    mean: float
    bound: float
    """One-sided lower bound of the mean, at 95 %."""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """The result of the policy `predicted` on evaluated rows, compared with one fixed path."""

    shares: Array
    """The share of the rows for which each path is chosen, (paths,)."""
    quality: float
    """Mean score of the chosen answers, 0 to 1."""
    usd: float
    """Mean dollars of the chosen answers."""
    gain: float
    """Mean utility (see the module) minus that of the best single path."""
    bound: float
    """One-sided lower bound of the gain, at 95 %."""
    gain_at_equal_cost: float
    """Mean score minus that of the best random mix of fixed paths (`best_mix`) that costs at most as much."""
    best: int
    """The column of the best single path; if it differs between folds, the most frequent one."""


def choose(predicted: Array, expected_usd: Array, usd_per_wrong_answer: float | Array) -> Indices:
    """Returns for each row the path (column) with the highest expected utility, (rows,): what the policy `predicted`
    chooses.

    `predicted` are probabilities of a good answer and `expected_usd` predicted dollars, both (rows, paths).
    `usd_per_wrong_answer` are the dollars that a wrong answer costs: one number, or one for each row, (rows,). The
    utility is the probability minus the dollars divided by these dollars.
    """
    price = np.reshape(usd_per_wrong_answer, (-1, 1))
    return np.asarray(np.argmax(predicted - expected_usd / price, axis=1))


def best_single(scores: Array, usd: Array, usd_per_wrong_answer: float) -> int:
    """Returns the column of the path with the highest mean utility, if all rows are sent to one path.

    The utility of an answer is its score minus its dollars divided by `usd_per_wrong_answer`, the dollars that a wrong
    answer costs. `scores` (0 to 1) and `usd` (dollars) are (rows, paths).
    """
    return int(np.argmax(scores.mean(axis=0) - usd.mean(axis=0) / usd_per_wrong_answer))


def measure_out_of_fold(outcomes: Outcomes, folds: Indices, prices: Sequence[float]) -> PolicyResult:
    """Measures what the policy `predicted` gains over the best single path, and returns the more cautious result.

    `folds` is the number of each row's fold, (rows,), and `prices` are each fold's dollars per wrong answer. The best
    single path is found for each fold on the rows of the other folds, and on all rows; of the two results, the one
    whose gain has the lower confidence bound is returned. With the first way alone, a path that is best by chance on
    some rows would be too easy to beat.
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
    """Measures the score, the cost and the gain of the policy `predicted` against a fixed path for each row.

    `prices` are the dollars of a wrong answer for each row, and `fixed` is the path (column) to compare with for each
    row, both (rows,).
    """
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
    """Returns by how much the paths `chosen` exceed the paths `others` in mean utility, with a lower confidence bound.

    Both have a column of `outcomes` for each row, (rows,); `prices` are each row's dollars per wrong answer, (rows,).
    Utility is the score minus the dollars of the answer divided by the row's price.
    """
    rows, scores, usd = np.arange(len(prices)), outcomes.scores, outcomes.usd
    gains = scores[rows, chosen] - scores[rows, others] - (usd[rows, chosen] - usd[rows, others]) / prices
    mean, error = float(gains.mean()), float(gains.std(ddof=1)) / len(gains) ** 0.5
    return Gain(mean, mean - ONE_SIDED_Z * error)


def prices_to_try(costs: Array) -> list[float]:
    """Returns the dollars per wrong answer to try, in ascending order.

    `costs` are the mean dollars of each path's answers, (paths,). The prices begin at the lowest cost above 0, and end
    at MAX_PRICE_IN_ANSWERS times the highest one. If all paths are free, returns only 1.0.
    """
    if not costs.any():
        return [1.0]
    lowest, highest = costs[costs > 0].min(), MAX_PRICE_IN_ANSWERS * costs.max()
    decades = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    tried = (float(f"{step}e{decade}") for decade in decades for step in STEPS)
    return [price for price in tried if lowest <= price <= highest]


def price_for_quality(outcomes: Outcomes, prices: Sequence[float], target: float) -> float:
    """Returns the lowest of `prices`, dollars per wrong answer, at which the choices reach the mean score `target`.

    `prices` are in ascending order. If none reaches it, returns the one with the highest mean score.
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
    """Returns the share of requests to send to each path, (paths,), for the highest mean score at a limited cost.

    `means` and `costs` are the mean score and the mean dollars of each path, (paths,). `usd` is the highest mean cost
    of a request in dollars; if every path costs more, all shares are 0. At most two shares are above 0, since a mix of
    more paths is never better.
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
