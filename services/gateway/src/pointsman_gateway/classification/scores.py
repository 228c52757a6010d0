"""Converts logits to calibrated probabilities, and combines signals about a text to one in-distribution score.

The score tells how much a text is like the examples of the tasks. Also computes the thresholds of the score below which
the classifier abstains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Scores = NDArray[np.floating]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0
SEARCH_STEPS = 16
GOLDEN_RATIO = (5**0.5 - 1) / 2

PRIOR_EXAMPLES = 5.0
"""Weight of the prior that the temperature is 1, in number of examples.

The prior prevents extreme probabilities: a handful of texts that are all classified correctly do not prove that the
next one will be.
"""

BINS = 15

MIN_SPREAD = 0.01

POOLED_EXAMPLES = 2000
"""Weight of the prior that a task's abstention threshold is the threshold of all tasks, in number of examples.

A quantile of sixty examples is unreliable, and a text that is out of scope for one task is mostly out of scope for all.
With a weight of 100, the help desk abstains on 76 of 100 out-of-scope requests at a coverage of 95 %; with 2000, on 87.
`task_thresholds` uses it.
"""

OUT_OF_SCOPE_WEIGHTS = (0.0, 0.25, 0.5, 1.0)

NEAREST_WEIGHT, NEAREST_WEIGHT_OF_FEW_CLASSES = 0.5, 3.5
"""The similarity to the nearest centroid has the weight `NEAREST_WEIGHT` + `NEAREST_WEIGHT_OF_FEW_CLASSES` / (number of
classes) in the in-distribution score; the highest logit has the weight 1.

The nearest centroid detects texts that are unlike all tasks, and the highest logit texts that resemble one. If there
are fewer classes to tell apart, the logits say less about other texts. At a coverage of 95 %, 75 % of the out-of-scope
requests to the help desk's five tasks are detected with a weight of 0.5, and 83 % with 1.2.
"""


def fit_temperature(logits: Floats, y: NDArray[np.intp], to_tasks: Callable[[Floats], Floats]) -> tuple[float, float]:
    """Returns (temperature, loss): the divisor of the logits that gives the least loss, and this loss.

    `logits` are (rows, classes), `y` the rows' task numbers, (rows,), and `to_tasks` converts logits of classes to
    logits of tasks. The temperature is between `MIN_TEMPERATURE` and `MAX_TEMPERATURE`. The loss is the cross-entropy
    of tasks, plus a prior for a temperature of 1 (`PRIOR_EXAMPLES`).

    This is temperature scaling (Guo et al., On Calibration of Modern Neural Networks, 2017). The head must not have
    been trained on the rows.
    """

    def loss(log_temperature: float) -> float:
        prior = PRIOR_EXAMPLES * log_temperature**2 / len(y)
        return cross_entropy(to_tasks(logits * np.float32(np.exp(-log_temperature))), y) + prior

    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    for _ in range(SEARCH_STEPS):
        left, right = high - GOLDEN_RATIO * (high - low), low + GOLDEN_RATIO * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    best = float(low + high) / 2
    return float(np.exp(best)), loss(best)


def probabilities(logits: Floats, temperature: float) -> Floats:
    """Returns the softmax of the logits divided by the temperature; logits and result are (rows, tasks) or (tasks,)."""
    scaled = np.asarray(logits * np.float32(1 / temperature))
    scaled -= np.maximum.reduce(scaled, axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= np.add.reduce(scaled, axis=-1, keepdims=True)
    return scaled


def cross_entropy(logits: Floats, y: NDArray[np.intp]) -> float:
    most = logits.max(axis=1)
    log_sum = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
    return float(np.mean(log_sum - logits[np.arange(len(y)), y]))


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Returns the expected calibration error, 0 to 1: the mean difference between confidence and accuracy.

    The mean is over `BINS` bins of equal width, weighted by the number of texts in a bin. `confidence` is the
    probability of each text's most probable task, (texts,), and `right` whether it is the text's task, (texts,).
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = (abs(float(confidence[bins == b].sum() - right[bins == b].sum())) for b in range(BINS))
    return sum(gaps) / len(confidence)


@dataclass(frozen=True, slots=True)
class Signal:
    """The mean and standard deviation (`spread`, at least `MIN_SPREAD`) of one signal of `Scale` over in-scope
    texts.
    """

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Scores) -> "Signal":
        return cls(float(values.mean()), max(float(values.std()), MIN_SPREAD))

    def scaled(self, values: Scores | float) -> Scores | float:
        return (values - self.mean) / self.spread


@dataclass(frozen=True, slots=True)
class Scale:
    """Combines four signals of a classifier stage about a text into the in-distribution score.

    The score is about 0 for typical texts of tasks, and far below 0 for texts that belong to no task. There are several
    signals because each alone misses some of the texts that belong to no task.
    """

    logit: Signal
    """The highest logit, not divided by the temperature."""
    pairs: Signal
    """The text's pair score for the most probable class minus the class's mean pair score; see `PairRatios`."""
    nearest: Signal
    """Cosine similarity to the nearest centroid of any task."""
    out_of_scope: Signal
    """Cosine similarity to the nearest known text that belongs to no task, or to the nearest centroid of such texts."""
    pairs_weight: float
    nearest_weight: float
    out_of_scope_weight: float

    def score(self, signals: "Signals") -> Scores:
        """Returns the in-distribution scores of several texts, (rows,)."""
        score = self.logit.scaled(signals.logit) + self.pairs_weight * self.pairs.scaled(signals.pairs)
        score = score + self.nearest_weight * self.nearest.scaled(signals.nearest)
        score = score / (1 + self.pairs_weight + self.nearest_weight)
        if self.out_of_scope_weight:
            score = score - self.out_of_scope_weight * np.maximum(self.out_of_scope.scaled(signals.out_of_scope), 0)
        return np.asarray(score)

    def score_one(self, logit: float, pairs: float, nearest: float, out_of_scope: float) -> float:
        """Returns the in-distribution score of one text from its four signals; faster than `score` with one row."""
        score = (
            (logit - self.logit.mean) / self.logit.spread
            + self.pairs_weight * (pairs - self.pairs.mean) / self.pairs.spread
            + self.nearest_weight * (nearest - self.nearest.mean) / self.nearest.spread
        ) / (1 + self.pairs_weight + self.nearest_weight)
        if self.out_of_scope_weight:
            score -= self.out_of_scope_weight * max(
                (out_of_scope - self.out_of_scope.mean) / self.out_of_scope.spread, 0.0
            )
        return score


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals of several texts, each (rows,): the four that `Scale` combines, and one that only `fit_scale`
    uses.
    """

    logit: Scores
    pairs: Scores
    nearest: Scores
    out_of_scope: Scores
    pairs_of_others: Scores
    """Like `pairs`, but for the most probable class that is not the text's own."""


def fit_scale(signals: Signals, inside: NDArray[np.bool_], classes: int) -> Scale:
    """Fits the scale of the in-distribution score on signals from models that were not trained on the rows' texts.

    `inside` marks the rows that belong to a task, (rows,), and `classes` is the number of classes, which determines
    `nearest_weight`. `out_of_scope_weight` becomes the value of `OUT_OF_SCOPE_WEIGHTS` that separates the marked rows
    from the other rows best; 0 if all rows are marked. `pairs_weight` becomes (2 A - 1)^2, where A is the
    `area_under_roc` with which `pairs` are higher than `pairs_of_others`; 0 if A is below 0.5. It is about 0.1 for
    long, varied messages, and 0.9 for short ones that repeat phrases.
    """
    pairs = np.concatenate([signals.pairs[inside], signals.pairs_of_others[inside]])
    separation = 2 * area_under_roc(pairs, np.arange(len(pairs)) < len(pairs) / 2) - 1
    scales = [
        Scale(
            logit=Signal.of(signals.logit[inside]),
            pairs=Signal.of(signals.pairs[inside]),
            nearest=Signal.of(signals.nearest[inside]),
            out_of_scope=Signal.of(signals.out_of_scope[inside]),
            pairs_weight=max(separation, 0.0) ** 2,
            nearest_weight=NEAREST_WEIGHT + NEAREST_WEIGHT_OF_FEW_CLASSES / classes,
            out_of_scope_weight=weight,
        )
        for weight in OUT_OF_SCOPE_WEIGHTS
    ]
    if inside.all():
        return scales[0]
    return max(scales, key=lambda scale: area_under_roc(scale.score(signals), inside))


def area_under_roc(scores: Scores, inside: NDArray[np.bool_]) -> float:
    """Returns the area under the ROC curve, 0 to 1.

    It is the share of pairs of a row that `inside` marks and a row that it does not mark in which the marked row has
    the higher score. `scores` and `inside` are (rows,), with at least one row of each kind. Of equal scores the later
    row's counts as higher.
    """
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    ins, outs = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - ins * (ins + 1) / 2) / (ins * outs))


def task_thresholds(
    scores: Scores, y: NDArray[np.intp], predicted: NDArray[np.intp], target_coverages: Sequence[float]
) -> NDArray[np.float64]:
    """Returns the in-distribution score below which the classifier abstains, by a text's most probable task, (tasks,).

    `scores`, `y` (the true tasks) and `predicted` (the most probable tasks) are those of in-scope texts, (texts,).
    `target_coverages`, (tasks,), are the shares of each task's texts on which the classifier should not abstain. A
    threshold is a weighted mean of two quantiles at 1 - target: of the task's own scores and of all scores, since the
    first is unreliable for few examples (`POOLED_EXAMPLES`). Then one number is added to all thresholds, so that the
    mean of the targets is reached over all texts. A single task may miss its target. Each task must have at least one
    text.
    """
    thresholds = np.empty(len(target_coverages))
    for task, coverage in enumerate(target_coverages):
        own = scores[y == task]
        of_all = np.quantile(scores, 1 - coverage)
        thresholds[task] = (len(own) * np.quantile(own, 1 - coverage) + POOLED_EXAMPLES * of_all) / (
            len(own) + POOLED_EXAMPLES
        )
    above = scores - thresholds[predicted]
    target = float(np.mean(np.asarray(target_coverages)[y]))
    return np.asarray(thresholds + np.quantile(above, 1 - target), np.float64)
