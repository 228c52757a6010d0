"""Chooses paths by expected utility, and measures what the choices gain over the best single path.

The utility of an answer is its score minus its dollars divided by the dollars that a wrong answer costs. No mix of
fixed paths has a higher mean utility than the best single path, so a gain over the best single path is also a gain over
every mix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman_lab.prediction.inputs import Array, Indices

ONE_SIDED_Z = 1.645
STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""The prices of a wrong answer that `prices_to_try` returns are these numbers times powers of ten, in dollars."""
MAX_PRICE_IN_ANSWERS = 1000
"""The highest price of a wrong answer that is tried, as a multiple of the most expensive path's mean dollars per
answer.
"""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Predicted and true scores and costs of each path's answer to each request; all arrays are (rows, paths)."""

    predicted: Array
    """The predicted probability that the answer is good, 0 to 1; each row is predicted by a fit to other rows."""
    expected_usd: Array
    """The predicted dollars of the answer; each row is predicted by a fit to other rows."""
    scores: Array
    """The true score of the answer, 0 to 1."""
    usd: Array
    """The true dollars of the answer."""

    def rows(self, which: NDArray[np.bool_] | Indices) -> "Outcomes":
        return Outcomes(self.predicted[which], self.expected_usd[which], self.scores[which], self.usd[which])


@dataclass(frozen=True, slots=True)
class Gain:
    """The mean utility of one choice of paths minus the mean utility of another choice on the same requests.

    `bound` is the 95 % lower confidence bound. The utility of an answer is its score minus its dollars divided by the
    dollars that a wrong answer costs.
    """

    mean: float
    bound: float
    """The one-sided lower confidence bound of the mean gain in utility, at 95 %."""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """The result of the policy `predicted` (which chooses a path for each request) on evaluated rows.

    It is compared with one fixed path, that is, one way to answer all requests.
    """

    shares: Array
    """The share of the rows for which each path is chosen, (paths,)."""
    quality: float
    """Mean score of the chosen answers, 0 to 1."""
    usd: float
    """Mean dollars of the chosen answers."""
    gain: float
    """Mean utility of the chosen answers (see the module) minus the mean utility of the best single path's answers."""
    bound: float
    """One-sided lower bound of the gain, at 95 %."""
    gain_at_equal_cost: float
    """Mean score of the chosen answers minus that of the best random mix of fixed paths at the same cost.

    `best_mix` finds the mix, which costs at most as much as the chosen answers.
    """
    best: int
    """The column of the best single path; if the folds have different best paths, the most frequent one."""


def choose(predicted: Array, expected_usd: Array, usd_per_wrong_answer: float | Array) -> Indices:
    """Returns for each row the path (column) that the policy `predicted` chooses, (rows,): the highest expected
    utility.

    `predicted` are probabilities of a good answer and `expected_usd` predicted dollars, both (rows, paths).
    `usd_per_wrong_answer` are the dollars that a wrong answer costs: one number, or one for each row, (rows,). The
    expected utility is the probability minus `expected_usd` divided by `usd_per_wrong_answer`.
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
    single path is found in two ways: for each fold on the rows of the other folds, and on all rows. The result whose
    gain has the lower confidence bound is returned. With the first way alone, a path that is best by chance on some
    rows would be too easy to beat.
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

    `chosen` and `others` have a column of `outcomes` for each row, (rows,); `prices` are each row's dollars per wrong
    answer, (rows,). Utility is the score minus the dollars of the answer divided by the row's price.
    """
    rows, scores, usd = np.arange(len(prices)), outcomes.scores, outcomes.usd
    gains = scores[rows, chosen] - scores[rows, others] - (usd[rows, chosen] - usd[rows, others]) / prices
    mean, error = float(gains.mean()), float(gains.std(ddof=1)) / len(gains) ** 0.5
    return Gain(mean, mean - ONE_SIDED_Z * error)


def prices_to_try(costs: Array) -> list[float]:
    """Returns the dollars per wrong answer to try, in ascending order.

    `costs` are the mean dollars of each path's answers, (paths,). The prices begin at the lowest cost above 0, and end
    at MAX_PRICE_IN_ANSWERS times the highest cost. If all paths are free, returns only 1.0.
    """
    if not costs.any():
        return [1.0]
    lowest, highest = costs[costs > 0].min(), MAX_PRICE_IN_ANSWERS * costs.max()
    decades = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    tried = (float(f"{step}e{decade}") for decade in decades for step in STEPS)
    return [price for price in tried if lowest <= price <= highest]


def price_for_quality(outcomes: Outcomes, prices: Sequence[float], target: float) -> float:
    """Returns the lowest of `prices`, dollars per wrong answer, at which the choices reach the mean score `target`.

    `prices` are in ascending order. If no price reaches the target, returns the price with the highest mean score.
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
