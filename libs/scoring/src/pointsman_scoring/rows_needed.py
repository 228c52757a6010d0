"""Estimates how many rows would decide a comparison of two paths that is still open (`Standing.OPEN`).

A path is one way to answer, and a row is a request that both paths have answered. The number depends on the true
difference of their mean scores, which is unknown. So the estimate assumes, of all differences that the rows make
plausible, the one that needs most rows: if plausible, the one in the middle between no difference and the stated
margin. Therefore the number is enough with about the stated probability (the power) whatever the true difference is,
and often too large.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.statistics import one_sided_z, wilson_interval

from pointsman_scoring.paired_limits import WEIGHTS, RowDifferences, log_growths

MAX_ROWS = 10_000_000
"""The largest number that `rows_needed` returns."""

_TILTS = 60
_PRECISION = 0.01
"""Relative precision of the search for the number of rows: the result is at most this share too large."""

Floats = NDArray[np.float64]


def rows_needed(differences: RowDifferences, margin: float, alpha: float, power: float) -> int:
    """Estimates how many rows a comparison needs in all, so that `standing` decides it with the probability `power`.

    `differences` are the other path's scores minus the path's own on the rows so far, which count towards the result.
    `margin` (between 0 and 1) is the smallest difference that matters if the path is worse, and `alpha` the probability
    of a wrong decision. The result is at most MAX_ROWS. Of the true differences and spreads that the rows so far leave
    plausible with the confidence `power`, the estimate assumes those that need most rows.
    """
    z = one_sided_z(power)
    values, shares = _spread_out(differences, z)
    error = float(np.sqrt(shares @ values**2 / differences.rows))
    low, high = differences.mean - z * error, differences.mean + z * error
    hardest = min(max(margin / 2, low, -1 + 1e-6), high, 1 - 1e-6)
    shares = _tilted(values, shares, hardest)
    close = _Race(log_growths(-values, -margin), shares, alpha)
    worse = _Race(log_growths(values, 0.0), shares, alpha)
    too_few, enough = 0, 1
    while close.chance(enough) + worse.chance(enough) < power and enough < MAX_ROWS:
        too_few, enough = enough, 2 * enough
    while enough - too_few > max(1, enough * _PRECISION):
        middle = (too_few + enough) // 2
        if close.chance(middle) + worse.chance(middle) < power:
            too_few = middle
        else:
            enough = middle
    return min(enough, MAX_ROWS)


def _spread_out(differences: RowDifferences, z: float) -> tuple[Floats, Floats]:
    """Returns the differences and their shares after moving some of the shares to -1 and 1.

    The moved shares make the mean square of the differences equal to the upper limit of the measured mean square
    (Wilson's, which holds for all values from 0 to 1), because a few rows may by chance have no difference at all.
    """
    shares = differences.counts / differences.rows
    square = float(shares @ differences.values**2)
    _, wanted = wilson_interval(square, differences.rows, z)
    moved = (wanted - square) / (1 - square) if square < 1 else 0.0
    values = np.concatenate([differences.values, [-1.0, 1.0]])
    return values, np.concatenate([shares * (1 - moved), [moved / 2, moved / 2]])


def _tilted(values: Floats, shares: Floats, mean: float) -> Floats:
    """Returns shares with this mean that are proportional to `shares` times an exponential of the values."""
    low, high = -60.0, 60.0
    for _ in range(_TILTS):
        middle = (low + high) / 2
        tilted = shares * np.exp(middle * values - abs(middle))
        if tilted @ values < mean * tilted.sum():
            low = middle
        else:
            high = middle
    tilted = shares * np.exp(low * values - abs(low))
    found: Floats = tilted / tilted.sum()
    return found


class _Race:
    """Computes the chance that the evidence for CLOSE or for WORSE reaches its threshold, by the number of rows.

    It is the chance of the best single stake, whose log capital is about normally distributed; the true chance is
    somewhat higher.
    """

    def __init__(self, growths: Floats, shares: Floats, alpha: float) -> None:
        usable = np.isfinite(np.where(shares[:, None] > 0, growths, 0.0)).all(axis=0)
        growths = np.where(shares[:, None] > 0, growths, 0.0)[:, usable]
        self._mean = shares @ growths
        self._deviation = np.sqrt(np.maximum(shares @ (growths - self._mean) ** 2, 1e-300))
        self._threshold = np.log(1 / alpha) - np.log(WEIGHTS[usable])

    def chance(self, rows: int) -> float:
        z = (rows * self._mean - self._threshold) / (self._deviation * np.sqrt(rows))
        return NormalDist().cdf(float(z.max()))
