"""The curve of quality by cost that a router gives as the price of a wrong answer changes, and what is read from it.

Each price gives a point (mean dollars, mean score). Points are joined by mixing them at random, so a router is as good
as the upper hull of its points; the fixed models and their mixes are among them. All rules are treated alike.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from pointsman_lab.prediction.choice import choose, prices_to_try
from pointsman_lab.prediction.inputs import Array, Indices

from benchmarks.routers.contenders import Contender
from benchmarks.routers.score_table import ScoreTable

TOLERANCES = np.concatenate([[0.0], np.geomspace(0.002, 0.6, 40)])
BUDGETS = 10
FIRST_BUDGET = 1.5
"""In mean dollars of the cheapest model."""

Points = Array
"""(points, 2): mean dollars and mean score of the chosen answers."""


def by_utility(router: Contender, tested: ScoreTable) -> Points:
    """Returns a point for each price of a wrong answer."""
    prices = prices_to_try(tested.usd.mean(axis=0))
    return _points((choose(router.predicted, router.expected_usd, price) for price in prices), tested)


def by_tolerance(router: Contender, tested: ScoreTable, mean_usd: Array) -> Points:
    """Returns a point for each tolerance, if the cheapest model is chosen whose prediction is that near the best one.

    `mean_usd` is each model's, (models,).
    """
    best = router.predicted.max(axis=1, keepdims=True)
    return _points(
        (np.where(router.predicted >= best - each, mean_usd, np.inf).argmin(axis=1) for each in TOLERANCES), tested
    )


def singles(tested: ScoreTable) -> Points:
    return np.column_stack([tested.usd.mean(axis=0), tested.scores.mean(axis=0)])


def oracle(tested: ScoreTable) -> Indices:
    """Returns the cheapest of the models with the best answer, for each row."""
    best = tested.scores.max(axis=1, keepdims=True)
    return np.asarray(np.where(tested.scores == best, tested.usd, np.inf).argmin(axis=1))


def point_of(chosen: Indices, tested: ScoreTable) -> tuple[float, float]:
    """Returns (mean dollars, mean score) of a choice of a model for each row."""
    rows = np.arange(len(chosen))
    return float(tested.usd[rows, chosen].mean()), float(tested.scores[rows, chosen].mean())


def hull(points: Points) -> Points:
    """Returns the corners of the upper, non-decreasing hull, by ascending cost."""
    corners: list[tuple[float, float]] = []
    for usd, score in sorted(map(tuple, points), key=lambda point: (point[0], -point[1])):
        if corners and score <= corners[-1][1]:
            continue
        while len(corners) > 1 and _slope(corners[-2], (usd, score)) >= _slope(corners[-2], corners[-1]):
            corners.pop()
        corners.append((usd, score))
    return np.array(corners)


def quality_at(corners: Points, usd: float) -> float:
    """Returns the best score at these dollars or less; 0 below the cheapest point."""
    return float(np.interp(usd, corners[:, 0], corners[:, 1], left=0.0))


def mean_gain(points: Points, tested: ScoreTable) -> float:
    """Returns the mean over ten budgets of the score above the best mix of single models that costs as much.

    The budgets are in equal ratios, from 1.5 times the cheapest model's mean dollars to the dearest one's.
    """
    usd = tested.usd.mean(axis=0)
    budgets, fixed = np.geomspace(FIRST_BUDGET * usd.min(), usd.max(), BUDGETS), hull(singles(tested))
    corners = hull(np.concatenate([points, singles(tested)]))
    return float(np.mean([quality_at(corners, budget) - quality_at(fixed, budget) for budget in budgets]))


def cost_share(points: Points, tested: ScoreTable, share: float) -> float:
    """Returns the dollars that reach a share of the best single model's score, as a share of that model's dollars."""
    usd, score = singles(tested)[tested.best_single]
    corners = hull(np.concatenate([points, singles(tested)]))
    return float(np.interp(share * score, corners[:, 1], corners[:, 0]) / usd)


def _points(choices: Iterable[Indices], tested: ScoreTable) -> Points:
    return np.array([point_of(chosen, tested) for chosen in choices])


def _slope(first: Sequence[float], second: Sequence[float]) -> float:
    gap = second[0] - first[0]
    return (second[1] - first[1]) / gap if gap else float("inf")
