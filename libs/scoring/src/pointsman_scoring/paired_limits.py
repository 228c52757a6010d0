"""Confidence limits of the mean difference between two paths on the same rows, which hold at any number of rows.

Whoever adds rows to a data set until a comparison is decided looks at it more than once. The limits here are right at
all numbers of rows at once with the probability 1 - alpha, for any scores from 0 to 1 and any number of rows, however
few. They assume that each row is drawn independently from the requests that the path will get.

For values x from 0 to 1, a mean m that is tested and a stake f from 0 to 1, the product of 1 - f + f x / m over all
rows is the capital of somebody who bets that the true mean is above m. If it is not, the capital does not grow on
average, and by Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha. The same holds for the
weighted mean over several stakes. A difference y, from -1 to 1, is tested as x = (1 + y) / 2. Source: I. Waudby-Smith
and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024), 1-27.
"""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pointsman_scoring.intervals import Interval

STAKES: NDArray[np.float64] = np.exp2(np.arange(-7.0, 1.0))
"""Small stakes find small differences that many rows show; large ones need differences of one sign."""

WEIGHTS: NDArray[np.float64] = STAKES / (0.12 + STAKES) ** 2 / np.sum(STAKES / (0.12 + STAKES) ** 2)
"""Weights of the stakes. They are largest for stakes of about 0.12, which suit differences of 3 to 10 points in 100."""

DECIMALS = 9
"""Differences that are equal after so many decimals count as equal, because of floating point."""

_BISECTIONS = 40
_LOST = -1e9
"""Stands for the logarithm of 0, which cannot be multiplied by 0 rows."""


class Standing(Enum):
    """What rows show about one path in comparison with another."""

    CLOSE = "close"
    """Surely at most a stated margin below the other path."""
    WORSE = "worse"
    """Surely below the other path."""
    OPEN = "open"
    """Neither is sure yet."""


@dataclass(frozen=True, slots=True)
class RowDifferences:
    """How much better one path scored than another, row by row, without the order of the rows."""

    values: NDArray[np.float64]
    """The different values, from -1 to 1, ascending."""
    counts: NDArray[np.float64]
    """The number of rows that have each value."""

    @property
    def rows(self) -> float:
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.values @ self.counts / self.counts.sum())

    def reversed(self) -> "RowDifferences":
        return RowDifferences(-self.values[::-1], self.counts[::-1])


def differences_of(better: ArrayLike, worse: ArrayLike) -> RowDifferences:
    """Returns `better` minus `worse` for each row; both are one score from 0 to 1 a row, in the same order.

    Raises ValueError if there are no rows, the lengths differ, or a difference is not from -1 to 1.
    """
    one, other = np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64)
    if one.shape != other.shape or not one.size:
        raise ValueError(f"paired scores are of the same rows; there are {one.size} and {other.size}")
    values, counts = np.unique(np.round(one - other, DECIMALS), return_counts=True)
    if values[0] < -1 or values[-1] > 1:
        raise ValueError("a difference of scores is from -1 to 1")
    return RowDifferences(values, counts.astype(np.float64))


def log_growths(values: NDArray[np.float64], tested: float) -> NDArray[np.float64]:
    """Returns by how much a row changes the logarithm of the capital, by value (row) and stake (column).

    The bet is that the true mean difference is above `tested`, which is above -1 and at most 1.
    """
    with np.errstate(divide="ignore"):  # a stake of 1 can be lost as a whole
        growths: NDArray[np.float64] = np.log1p(STAKES * ((1 + values[:, None]) / (1 + tested) - 1))
    return growths


def log_evidence_above(differences: RowDifferences, tested: float) -> float:
    """Returns the logarithm of the evidence that the true mean difference is above `tested`."""
    gains = differences.counts @ np.maximum(log_growths(differences.values, tested), _LOST) + np.log(WEIGHTS)
    return float(np.logaddexp.reduce(gains))


def is_above(differences: RowDifferences, tested: float, alpha: float) -> bool:
    """Returns whether the true mean difference is surely above `tested`, with an error probability of `alpha`."""
    return log_evidence_above(differences, tested) >= math.log(1 / alpha)


def limits(differences: RowDifferences, alpha: float) -> Interval:
    """Returns the mean difference with its lower and upper limit; each is wrong with a probability of at most `alpha`.

    Both are right together with a probability of at least 1 - 2 `alpha`.
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
    """Returns what the rows show about a path, of which `differences` are how much better another path is.

    It is CLOSE although the difference is sure, if it is surely smaller than `margin`, which is above 0 and below 1:
    whoever states a margin does not mind less. So enough rows decide each comparison. A path that is truly worse by
    more than `margin` is CLOSE, and one that is not worse is WORSE, with a probability of at most `alpha` each.
    """
    if is_above(differences.reversed(), -margin, alpha):
        return Standing.CLOSE
    return Standing.WORSE if is_above(differences, 0.0, alpha) else Standing.OPEN
