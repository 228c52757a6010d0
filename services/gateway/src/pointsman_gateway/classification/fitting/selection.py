"""Selects how the static stage and the encoder stage of the classifier are combined.

It evaluates both stages on texts that they were not trained on, and selects the weights of their logits, and the
threshold from which on the static stage decides without the encoder.
"""

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
"""Candidates for `CascadeThreshold.min_margin`, the margin from which on the static stage decides without the encoder.

No text has the last margin, 1.01: with it, the encoder classifies every text.
"""

TOLERANCE = 0.0002
"""How much accuracy, 0 to 1, may be lost by a lower margin of `MARGINS`. It is small because examples resemble each
other more than the texts of real traffic do.
"""

MIN_EXAMPLES_FOR_ONE_ERROR = 1000
"""With at least this many examples, a lower margin of `MARGINS` may cost one error, even if one error is more than
`TOLERANCE`. Otherwise a single example could make the encoder classify every text.
"""

STATIC_REJECT_SHARE = 0.2
"""The share of in-scope texts whose in-distribution score is too low for the static stage to decide.

The static stage separates out-of-scope texts less well than the encoder, and may be sure of the wrong task
nevertheless. In the mean of eight sets of validation texts it accepted 10.2 % of the out-of-scope texts with a share of
0.1, 4.4 % with 0.2, and 2.3 % with 0.3.
"""

MIN_EXAMPLES = 40
"""With fewer examples than this, the static stage cannot be evaluated reliably, and the encoder classifies every
text.
"""

MIN_POINTS_FOR_LINE = 20


@dataclass(frozen=True, slots=True)
class StageResults:
    """One stage's results on each training text, computed by models that were not trained on the text.

    Each array has the shape (texts,).
    """

    temperature: float
    scale: Scale
    predicted: NDArray[np.intp]
    """The number of the most probable task."""
    confidence: Floats
    """The probability of the most probable task."""
    margin: Floats
    """The difference between the highest and the second-highest probability of a task."""
    score: NDArray[np.floating]
    """The in-distribution score of each text."""


def evaluate_stage(data: Examples, scores: OutOfFoldScores, logits: Floats, pairs: Floats) -> StageResults:
    """Fits a stage's temperature and the scale of its in-distribution score, and returns its results on every text.

    `logits`, (texts, classes), are used instead of `scores.logits`: for the encoder stage a caller passes their
    weighted mean with the static stage's logits. `pairs`, (texts, classes), are the texts' pair scores minus
    `PairRatios.means`.
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
    """Returns the best of `STATIC_SHARES`: the weight of the static stage's logits in their mean with the encoder's
    logits.

    `static` and `encoder` are the logits of both stages, (texts, classes). The best weight has the lowest loss of
    `fit_temperature` on in-scope texts.
    """
    y, inside, to_tasks = data.y[data.inside], data.inside, data.classes.logits_of_tasks
    return min(STATIC_SHARES, key=lambda share: fit_temperature(blend(static, encoder, share)[inside], y, to_tasks)[1])


def blend(static: Floats, encoder: Floats, share: float) -> Floats:
    return np.asarray(np.float32(share) * static + np.float32(1 - share) * encoder)


def fit_threshold(data: Examples, static: StageResults, encoder: StageResults) -> CascadeThreshold:
    """Chooses the margin and the in-distribution score from which on the static stage decides without the encoder.

    Also fits the line that converts the static stage's scores to the encoder's scale. Only in-scope texts count.

    The share `STATIC_REJECT_SHARE` of the texts has a score below `min_score`. `min_margin` is the lowest of `MARGINS`
    that loses few right answers compared with the best of them: at most `TOLERANCE` times the number of texts, or one
    if there are `MIN_EXAMPLES_FOR_ONE_ERROR` texts and one is more. The line is fitted on the texts that the static
    stage then decides. With fewer than `MIN_EXAMPLES` texts, `min_margin` is the last of `MARGINS`, which no text
    reaches, and the line changes no score.
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
    """Returns for each text whether the static stage decides without the encoder, (texts,).

    It decides if the text's margin and in-distribution score reach the `threshold`.
    """
    return (static.margin >= threshold.min_margin) & (static.score >= threshold.min_score)


def cascade_results(threshold: CascadeThreshold, static: StageResults, encoder: StageResults) -> StageResults:
    """Returns the results of both stages together: the static stage's for the texts that it decides, else the
    encoder's.

    All scores are on the encoder's scale; `temperature` and `scale` are those of the encoder.
    """
    passing = passes(threshold, static)
    return replace(
        encoder,
        predicted=np.where(passing, static.predicted, encoder.predicted),
        confidence=np.where(passing, static.confidence, encoder.confidence),
        margin=np.where(passing, static.margin, encoder.margin),
        score=np.where(passing, threshold.on_encoder_scale(static.score), encoder.score),
    )


def _fit_line(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float]:
    """Returns (slope, offset) of a line through the points by least squares; the slope is at least 0. With fewer than
    `MIN_POINTS_FOR_LINE` points the slope is 1, and without any the offset is 0.
    """
    if len(x) < MIN_POINTS_FOR_LINE:
        return 1.0, float((y - x).mean()) if len(x) else 0.0
    slope = max(float(np.cov(x, y)[0, 1]) / max(float(x.var()), 1e-9), 0.0)
    return slope, float(y.mean() - slope * x.mean())
