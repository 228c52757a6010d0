"""A stage's trial, judged: how its logits become probabilities and its signals one score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.calibration import energy, probabilities, temperature
from pointsman_gateway.classification.examples import Examples
from pointsman_gateway.classification.familiarity import Scale, scale_of
from pointsman_gateway.classification.learning import Trial
from pointsman_gateway.classification.softmax_regression import Floats

STATIC_SHARES = (0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True, slots=True)
class Judged:
    """Of every text (texts, ...), none of which the stage has learned from."""

    temperature: float
    scale: Scale
    predicted: NDArray[np.intp]
    confidence: Floats
    margin: Floats
    """From the first probability to the second."""
    familiarity: NDArray[np.floating]


def judge(data: Examples, trial: Trial, logits: Floats) -> Judged:
    """`logits` are the trial's, or those of several stages together."""
    heat, _ = temperature(logits[data.inside], data.y[data.inside])
    of_logits = energy(logits)
    scale = scale_of(of_logits, trial.nearest, trial.foreign, data.inside)
    ranked = np.sort(probabilities(logits, heat), axis=1)
    return Judged(
        heat,
        scale,
        logits.argmax(axis=1),
        ranked[:, -1],
        ranked[:, -1] - ranked[:, -2],
        scale.score(of_logits, trial.nearest, trial.foreign),
    )


def static_share(data: Examples, static: Floats, encoder: Floats) -> float:
    """How much of the static stage's logits makes the encoder's the most probable."""
    y, inside = data.y[data.inside], data.inside
    return min(STATIC_SHARES, key=lambda share: temperature(blend(static, encoder, share)[inside], y)[1])


def blend(static: Floats, encoder: Floats, share: float) -> Floats:
    return np.asarray(np.float32(share) * static + np.float32(1 - share) * encoder)
