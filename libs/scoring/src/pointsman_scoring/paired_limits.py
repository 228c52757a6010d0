"""Confidence limits of the mean difference between two paths on the same rows, which hold at any number of rows.

A path is one way to answer, and a row is a request that both paths have answered. Whoever adds rows to a data set until
a comparison is decided looks at the comparison more than once. The limits here are right at all numbers of rows at once
with the probability 1 - alpha, for any scores from 0 to 1 and any number of rows, however few. They assume that each
row is drawn independently from the requests that the path will get.

For values x from 0 to 1, a mean m that is tested and a stake f from 0 to 1, the product of 1 - f + f x / m over all
rows is the capital of somebody who bets that the true mean is above m. If the true mean is not above m, the capital
does not grow on average, and by Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha. The
weighted mean over several stakes has the same property. A difference y, from -1 to 1, is tested as x = (1 + y) / 2.
Source: I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024),
1-27.
"""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pointsman_scoring.intervals import Interval

STAKES: NDArray[np.float64] = np.exp2(np.arange(-7.0, 1.0))
"""The stakes f in the module's formula: the fraction of its capital that a bet risks on each row.

Small stakes detect small differences in many rows; large ones detect differences that all have one sign.
"""

WEIGHTS: NDArray[np.float64] = STAKES / (0.12 + STAKES) ** 2 / np.sum(STAKES / (0.12 + STAKES) ** 2)
"""The initial capital of the bet with each stake of `STAKES`; the weights add up to 1.

Stakes of about 0.12 get most, because they suit mean differences of 0.03 to 0.1.
"""

DECIMALS = 9
"""Differences are rounded to this many decimals, so that floating-point errors do not make equal ones unequal."""

_BISECTIONS = 40
_LOST = -1e9
"""Stands for the logarithm of 0, which cannot be multiplied by 0 rows."""


class Standing(Enum):
    """The result of comparing a path (way to answer) with another path on the same rows."""

    CLOSE = "close"
    """With high confidence, the path is not worse than the other one, or worse by less than a stated margin."""
    WORSE = "worse"
    """With high confidence, the path is worse than the other one, perhaps by more than the margin."""
    OPEN = "open"
    """The rows decide neither for CLOSE nor for WORSE; more rows may decide."""


@dataclass(frozen=True, slots=True)
class RowDifferences:
    """The differences between the scores of two paths, one path's score minus the other's on each row, with their
    counts.
    """

    values: NDArray[np.float64]
    """The distinct differences, from -1 to 1, ascending."""
    counts: NDArray[np.float64]
    """The number of rows with each of `values`, in their order."""

    @property
    def rows(self) -> float:
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.values @ self.counts / self.counts.sum())

    def reversed(self) -> "RowDifferences":
        return RowDifferences(-self.values[::-1], self.counts[::-1])


def differences_of(better: ArrayLike, worse: ArrayLike) -> RowDifferences:
    """Returns `better` minus `worse` for each row, counted by difference.

    Both arguments have one score from 0 to 1 for each row, in the same order. Raises ValueError if there are no rows,
    the lengths differ, or a difference is not from -1 to 1.
    """
    one, other = np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64)
    if one.shape != other.shape or not one.size:
        raise ValueError(
            f"both paths need scores of the same rows, one at least; there are {one.size} and {other.size}"
        )
    values, counts = np.unique(np.round(one - other, DECIMALS), return_counts=True)
    if values[0] < -1 or values[-1] > 1:
        raise ValueError("a difference of two scores is outside -1 to 1; each score must be from 0 to 1")
    return RowDifferences(values, counts.astype(np.float64))


def log_growths(values: NDArray[np.float64], tested: float) -> NDArray[np.float64]:
    """Returns an array (values, stakes): how much one row changes the logarithm of the capital of a bet.

    The bet, which risks one of `STAKES` on each row, is that the true mean difference is above `tested` (above -1, at
    most 1). `values` are the differences that the row may have.
    """
    with np.errstate(divide="ignore"):  # a stake of 1 can be lost as a whole
        growths: NDArray[np.float64] = np.log1p(STAKES * ((1 + values[:, None]) / (1 + tested) - 1))
    return growths


def log_evidence_above(differences: RowDifferences, tested: float) -> float:
    """Returns the natural logarithm of the evidence that the true mean difference is above `tested`.

    The evidence is the capital of a bettor who starts with 1 and bets that the true mean difference is above `tested`.
    If the true mean difference is not above `tested`, the evidence ever reaches 1 / alpha with a probability of at most
    alpha.
    """
    gains = differences.counts @ np.maximum(log_growths(differences.values, tested), _LOST) + np.log(WEIGHTS)
    return float(np.logaddexp.reduce(gains))


def is_above(differences: RowDifferences, tested: float, alpha: float) -> bool:
    """Returns whether the differences show that the true mean difference is above `tested`.

    The probability that this is wrongly True is at most `alpha`.
    """
    return log_evidence_above(differences, tested) >= math.log(1 / alpha)


def limits(differences: RowDifferences, alpha: float) -> Interval:
    """Returns the mean difference with its lower and upper limit; each is wrong with a probability of at most `alpha`.

    The probability that both limits are right is at least 1 - 2 `alpha`.
    """
    return Interval(
        differences.mean, _lower_limit(differences, alpha), 0.0 - _lower_limit(differences.reversed(), alpha)
    )


def _lower_limit(differences: RowDifferences, alpha: float) -> float:
    refuted, open_to = -1.0, max(differences.mean, -1.0)
    for _ in range(_BISECTIONS):
        middle = (refuted + open_to) / 2
        if middle > -1 and is_above(differences, middle, alpha):
            refuted = middle
        else:
            open_to = middle
    return refuted


def standing(differences: RowDifferences, margin: float, alpha: float) -> Standing:
    """Returns how a path compares with another path; `differences` are the other path's scores minus the path's own.

    The path is CLOSE if it is shown to be worse by less than `margin` (above 0, below 1), even if it is also shown to
    be worse: a smaller difference than the margin does not matter. If it is not CLOSE, it is WORSE if it is shown to be
    worse, and else OPEN. The probability that a path which is worse by more than `margin` is called CLOSE is at most
    `alpha`. The probability that a path which is not worse is called WORSE is at most `alpha` too.
    """
    if is_above(differences.reversed(), -margin, alpha):
        return Standing.CLOSE
    return Standing.WORSE if is_above(differences, 0.0, alpha) else Standing.OPEN
