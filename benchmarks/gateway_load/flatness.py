"""Whether a row of measurements goes up: the slope of the straight line through it, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t  # type: ignore[import-untyped]  # it ships no types

FEWEST = 8
"""Measurements; fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A unit an hour, with its 95 % interval."""

    per_hour: float
    least: float
    most: float

    @property
    def flat(self) -> bool:
        """It cannot be told from standing still, or falls."""
        return self.least <= 0


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """By least squares.

    Memory drifts rather than jitters, so that neighbours say much the same: the variance of the slope is widened by
    (1 + r) / (1 - r), and the number of measurements shrunk by it, r being the correlation of a residual with its next
    (as for residuals that follow an AR(1)).
    """
    count = len(seconds)
    if count < FEWEST:
        return Slope(0.0, -math.inf, math.inf)
    hours = np.asarray(seconds, dtype=float) / 3600
    hours -= hours.mean()
    held = np.asarray(values, dtype=float)
    spread = float(hours @ hours)
    rise = float(hours @ held) / spread
    residuals = held - held.mean() - rise * hours
    square = float(residuals @ residuals)
    alike = float(residuals[1:] @ residuals[:-1]) / square if square > 1e-12 else 0.0
    widened = (1 + max(alike, 0.0)) / (1 - min(max(alike, 0.0), 0.99))
    error = math.sqrt(square / (count - 2) / spread * widened)
    half = float(t.ppf(0.975, max(count / widened - 2, 1.0))) * error
    return Slope(rise, rise - half, rise + half)
