"""From logits to probabilities that mean what they say."""

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.softmax_regression import Floats

COLDEST, HOTTEST = 0.1, 10.0
STEPS = 16
GOLDEN = (5**0.5 - 1) / 2

DOUBT = 5.0
"""How many examples' worth of belief that the temperature is 1: a handful of texts all told right are no proof that
the next one will be."""

BINS = 15


def temperature(logits: Floats, y: NDArray[np.intp]) -> tuple[float, float]:
    """The divisor of the logits (rows, tasks) with the least cross-entropy, and that cross-entropy (Guo et al., 2017).

    The logits are to be of rows that the head has not learned from.
    """

    def loss(log_temperature: float) -> float:
        doubt = DOUBT * log_temperature**2 / len(y)
        return cross_entropy(logits * np.float32(np.exp(-log_temperature)), y) + doubt

    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    best = float(low + high) / 2
    return float(np.exp(best)), loss(best)


def probabilities(logits: Floats, temperature: float) -> Floats:
    """(rows, tasks) or (tasks,), adding up to 1."""
    scaled = logits * np.float32(1 / temperature)
    scaled = np.exp(scaled - np.maximum.reduce(scaled, axis=-1, keepdims=True))
    return np.asarray(scaled / np.add.reduce(scaled, axis=-1, keepdims=True))


def cross_entropy(logits: Floats, y: NDArray[np.intp]) -> float:
    return float(np.mean(energy(logits) - logits[np.arange(len(y)), y]))


def energy(logits: Floats) -> Floats:
    """(rows,): log-sum-exp; low for a text that no task claims (Liu et al., 2020)."""
    most = logits.max(axis=-1, keepdims=True)
    return np.asarray(most[..., 0] + np.log(np.exp(logits - most).sum(axis=-1)))


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over 15 bins of equal width."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = (abs(float(confidence[bins == b].sum() - right[bins == b].sum())) for b in range(BINS))
    return sum(gaps) / len(confidence)
