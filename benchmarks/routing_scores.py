"""Metrics of a classifier's answers to a labelled set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Answer:
    label: str
    """The most probable task, even if the classifier abstains."""
    score: float
    """How likely the text is in scope; a higher score means more likely."""
    milliseconds: float
    confidence: float | None = None


def scores(truth: Sequence[str | None], answers: Sequence[Answer]) -> dict[str, float]:
    """Returns metrics as fractions, without those that need out-of-scope texts or confidences if there are none.

    accuracy: of the most probable task of in-scope texts, ignoring abstention. oos_recall_at_95: the share of
    out-of-scope texts with a score below the threshold that accepts 95 % of the in-scope texts of the same set.
    """
    inside = np.array([label is not None for label in truth])
    right = np.array([answer.label == label for answer, label in zip(answers, truth, strict=True)])[inside]
    score = np.array([answer.score for answer in answers])
    times = np.array([answer.milliseconds for answer in answers])
    result = {
        "accuracy": float(right.mean()),
        "mean_ms": float(times.mean()),
        "p99_ms": float(np.quantile(times, 0.99)),
    }
    if not inside.all():
        threshold = np.quantile(score[inside], 0.05)
        result["oos_recall_at_95"] = float((score[~inside] < threshold).mean())
        result["auroc"] = area_under_roc(score[inside], score[~inside])
    confidences = [answer.confidence for answer in answers if answer.confidence is not None]
    if len(confidences) == len(answers):
        result["ece"] = calibration_error(np.array(confidences)[inside], right)
    return result


def area_under_roc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Returns the probability that an in-scope text scores higher than an out-of-scope one; a tie counts half."""
    outside = np.sort(outside)
    below = np.searchsorted(outside, inside, "left")
    not_above = np.searchsorted(outside, inside, "right")
    return float((below + not_above).mean() / 2 / len(outside))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Returns the expected calibration error over 15 bins of equal width."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = (abs(confidence[bins == number].sum() - right[bins == number].sum()) for number in range(BINS))
    return float(sum(gaps) / len(confidence))
