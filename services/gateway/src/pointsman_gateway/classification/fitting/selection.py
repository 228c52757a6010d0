"""Evaluates the stages on out-of-fold examples, and selects the blend and the threshold between them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.fitting.examples import Examples
from pointsman_gateway.classification.fitting.learner import OutOfFoldScores
from pointsman_gateway.classification.model import CascadeThreshold
from pointsman_gateway.classification.scores import (
    Floats,
    Scale,
    Signals,
    fit_scale,
    fit_temperature,
    probabilities,
)

STATIC_SHARES = (0.2, 0.3, 0.4, 0.5)

MARGINS = (0.7, 0.8, 0.9, 0.95, 0.99, 1.01)
"""Candidates for the cascade threshold. The last is unreachable: the encoder classifies every text."""

TOLERANCE = 0.0002
"""Accuracy that a lower threshold may cost. It is small because examples are more alike than traffic is."""

MIN_EXAMPLES_FOR_ONE_ERROR = 1000
"""With so many examples a lower threshold may cost one error even if that is more than `TOLERANCE`: the encoder would
classify every text because of a single example."""

STATIC_REJECT_SHARE = 0.2
"""The share of in-scope texts whose score is too low for the static stage to decide.

The static stage separates out-of-scope texts less well than the encoder, and may be sure of them nevertheless. In the
mean of eight sets of validation texts it accepted 10.2 % of them with a share of 0.1, 4.4 % with 0.2, 2.3 % with 0.3.
"""

MIN_EXAMPLES = 40
"""With fewer examples the static stage cannot be evaluated reliably, so the encoder classifies every text."""

MIN_POINTS_FOR_LINE = 20


@dataclass(frozen=True, slots=True)
class StageResults:
    """A stage's results on every text, (texts, ...), each from a model that was not trained on the text."""

    temperature: float
    scale: Scale
    predicted: NDArray[np.intp]
    """The number of the most probable task."""
    confidence: Floats
    """The probability of this task."""
    margin: Floats
    """Difference between the first and the second task's probability."""
    score: NDArray[np.floating]
    """In-distribution score."""


def evaluate_stage(data: Examples, scores: OutOfFoldScores, logits: Floats, pairs: Floats) -> StageResults:
    """Fits a stage's temperature and score scale, and returns its results on every text.

    `logits` (texts, classes) are those in `scores`, or a blend of both stages'; `pairs` (texts, classes) are pair
    scores minus `PairRatios.means`.
    """
    temperature, _ = fit_temperature(logits[data.inside], data.y[data.inside], data.classes.logits_of_tasks)
    best, rows = logits.argmax(axis=1), np.arange(len(logits))
    others = logits.copy()
    others[rows[data.inside], data.own_classes[data.inside]] = -np.inf
    signals = Signals(
        logit=logits.max(axis=1),
        pairs=pairs[rows, best],
        nearest=scores.nearest,
        out_of_scope=scores.out_of_scope,
        pairs_of_others=pairs[rows, others.argmax(axis=1)],
    )
    scale = fit_scale(signals, data.inside, data.classes.count)
    ranked = np.sort(data.classes.probabilities_of_tasks(probabilities(logits, temperature)), axis=1)
    predicted = data.classes.best_tasks(logits, temperature)
    return StageResults(
        temperature, scale, predicted, ranked[:, -1], ranked[:, -1] - ranked[:, -2], scale.score(signals)
    )


def best_static_share(data: Examples, static: Floats, encoder: Floats) -> float:
    """Returns the best of `STATIC_SHARES`, weights of the static stage's logits when they are blended with the
    encoder's. Best means the lowest cross-entropy on the in-scope examples, after the temperature was fitted.
    """
    y, inside, to_tasks = data.y[data.inside], data.inside, data.classes.logits_of_tasks
    return min(STATIC_SHARES, key=lambda share: fit_temperature(blend(static, encoder, share)[inside], y, to_tasks)[1])


def blend(static: Floats, encoder: Floats, share: float) -> Floats:
    return np.asarray(np.float32(share) * static + np.float32(1 - share) * encoder)


def fit_threshold(data: Examples, static: StageResults, encoder: StageResults) -> CascadeThreshold:
    """Chooses how sure the static stage must be of a text, so that the encoder is not asked.

    Returns the lowest threshold with which the accuracy is at most `TOLERANCE` below the best one's. With fewer than
    `MIN_EXAMPLES` in-scope texts it is the highest, which no text reaches.
    """
    min_score = float(np.quantile(static.score[data.inside], STATIC_REJECT_SHARE))
    candidates = [CascadeThreshold(margin, min_score, 1.0, 0.0) for margin in MARGINS]
    if data.inside.sum() < MIN_EXAMPLES:
        return candidates[-1]
    right = [
        int((cascade_results(candidate, static, encoder).predicted == data.y)[data.inside].sum())
        for candidate in candidates
    ]
    examples = int(data.inside.sum())
    errors = max(TOLERANCE * examples, examples >= MIN_EXAMPLES_FOR_ONE_ERROR)
    threshold = next(
        candidate for candidate, count in zip(candidates, right, strict=True) if count >= max(right) - errors
    )
    passing = passes(threshold, static) & data.inside
    slope, offset = _fit_line(static.score[passing], encoder.score[passing])
    return replace(threshold, slope=slope, offset=offset)


def passes(threshold: CascadeThreshold, static: StageResults) -> NDArray[np.bool_]:
    """Returns which texts the static stage decides, (texts,): those with at least the threshold's margin and score."""
    return (static.margin >= threshold.min_margin) & (static.score >= threshold.min_score)


def cascade_results(threshold: CascadeThreshold, static: StageResults, encoder: StageResults) -> StageResults:
    """Returns the results of both stages together, with scores on the encoder's scale."""
    passing = passes(threshold, static)
    return replace(
        encoder,
        predicted=np.where(passing, static.predicted, encoder.predicted),
        confidence=np.where(passing, static.confidence, encoder.confidence),
        margin=np.where(passing, static.margin, encoder.margin),
        score=np.where(passing, threshold.on_encoder_scale(static.score), encoder.score),
    )


def _fit_line(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float]:
    """Returns slope (at least 0) and offset by least squares; with few points the slope is 1."""
    if len(x) < MIN_POINTS_FOR_LINE:
        return 1.0, float((y - x).mean()) if len(x) else 0.0
    slope = max(float(np.cov(x, y)[0, 1]) / max(float(x.var()), 1e-9), 0.0)
    return slope, float(y.mean() - slope * x.mean())
