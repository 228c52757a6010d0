"""Confidence intervals of mean scores, and significance tests between two paths on the same rows.

A path is one way to answer, such as a model with a prompt. A row is a request that both paths have answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.statistics import two_sided_z, wilson_interval

RESAMPLES = 9999
"""Number of resamples of a bootstrap or permutation test; the smallest p-value of a resampled test is 2/10000."""

ROUNDING = 1e-9
"""Two differences that are closer to each other than this count as equal, because of floating-point rounding: 0.4 - 0.3
is not exactly 0.3 - 0.2."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of some scores, with the lower and the upper end of its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between the mean scores of two paths (ways to answer) on the same rows, first minus second."""

    difference: Interval
    p_value: float
    """The two-sided p-value: the probability of a difference at least this large if the paths are equally good."""
    test: str
    """The test that was used: "mcnemar" or "permutation"."""


def mean_interval(scores: Sequence[float], confidence: float = 0.95, seed: int = 7) -> Interval:
    """Returns the mean of scores from 0 to 1 with its two-sided confidence interval.

    `confidence` is the level, above 0 and below 1; `seed` makes the bootstrap repeatable. If all scores are 0 or 1, the
    interval is Wilson's (E. B. Wilson, JASA 22, 1927); other scores get a BCa bootstrap (B. Efron, JASA 82, 1987). If
    all scores are equal, a bootstrap finds no spread, and Wilson's interval is used, which is then too wide rather than
    too narrow. Raises ValueError if there are no scores, or one is not from 0 to 1.
    """
    values = _checked(scores)
    if np.all((values == 0) | (values == 1)) or np.ptp(values) == 0:
        return _wilson(values, confidence)
    low, high = _bootstrap(values, confidence, seed, "BCa")
    return Interval(float(values.mean()), low, high)


def compare(first: Sequence[float], second: Sequence[float], confidence: float = 0.95, seed: int = 7) -> Comparison:
    """Compares the scores of two paths (ways to answer) on the same rows, in the same order.

    If all scores are 0 or 1, the test is McNemar's (Psychometrika 12, 1947) in its exact form, a binomial test on the
    rows where one path alone is right. For other scores the test is a permutation test that flips the signs of the
    differences (R. A. Fisher, The Design of Experiments, 1935).

    The interval is a percentile bootstrap of the differences. If the differences are all equal, or too few for a
    significant result, its limits are replaced by wider ones that hold for any distribution.

    `confidence` (above 0, below 1) is the interval's level; `seed` makes the result repeatable. Raises ValueError if
    the lengths differ, there are no scores, or one is not from 0 to 1.
    """
    one, other = _checked(first), _checked(second)
    if len(one) != len(other):
        raise ValueError(f"both paths need scores of the same rows; there are {len(one)} and {len(other)}")
    differences = one - other
    mean = float(differences.mean())
    smallest_p = 2.0 ** (
        1 - len(differences)
    )  # the smallest p-value of either test, reached if all rows favour one path
    if np.ptp(differences) < ROUNDING or smallest_p > 1 - confidence:
        low, high = _bounds(differences, confidence)
    else:
        low, high = _bootstrap(differences, confidence, seed, "percentile")
    binary = bool(np.all((one == 0) | (one == 1)) and np.all((other == 0) | (other == 1)))
    p_value = _mcnemar(differences) if binary else _sign_flips(differences, seed)
    return Comparison(Interval(mean, low, high), p_value, "mcnemar" if binary else "permutation")


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values adjusted for multiple tests by Holm's method, in the given order (S. Holm, Scand. J. of
    Statistics 6, 1979).
    """
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def _checked(scores: Sequence[float]) -> Scores:
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise ValueError("there are no scores")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("a score is outside 0 to 1")
    return values


def _wilson(values: Scores, confidence: float) -> Interval:
    mean = float(values.mean())
    low, high = wilson_interval(mean, len(values), two_sided_z(confidence))
    return Interval(mean, low, high)


def _bounds(differences: Scores, confidence: float) -> tuple[float, float]:
    """Returns limits of the mean that hold for any distribution; at 95 % about 3.7 / n on either side for n zeros.

    At least the fraction s = ((1 - confidence) / 2)^(1 / n) of all rows is not below the lowest of n (S. S. Wilks,
    Annals of Mathematical Statistics 12, 1941; for equal values C. J. Clopper and E. S. Pearson, Biometrika 26, 1934),
    and no row is below -1. The upper limit follows in the same way.
    """
    share = ((1 - confidence) / 2) ** (1 / len(differences))
    return share * float(differences.min()) - (1 - share), share * float(differences.max()) + (1 - share)


def _bootstrap(values: Scores, confidence: float, seed: int, method: str) -> tuple[float, float]:
    found: Any = (
        _stats()
        .bootstrap(
            (values,),
            np.mean,
            confidence_level=confidence,
            n_resamples=RESAMPLES,
            method=method,
            rng=np.random.default_rng(seed),
            batch=500,  # bounds the memory: 500 x rows at a time
        )
        .confidence_interval
    )
    return float(found.low), float(found.high)


def _mcnemar(differences: Scores) -> float:
    first_alone, second_alone = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    if not first_alone + second_alone:
        return 1.0
    return float(_stats().binomtest(first_alone, first_alone + second_alone).pvalue)


def _sign_flips(differences: Scores, seed: int) -> float:
    told_apart = differences[differences != 0]
    if told_apart.size < 2:  # a single difference is as likely with either sign, and SciPy requires two
        return 1.0
    found = _stats().permutation_test(
        (told_apart,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        batch=500,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _stats() -> Any:
    """Returns SciPy's statistics module, imported on first use, since that takes a second or two."""
    from scipy import stats  # type: ignore[import-untyped]  # it ships no types

    return stats
