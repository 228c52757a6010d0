"""The parameters of a fitted classifier, apart from the embedding models, and the settings of a fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.scores import Floats, Scale

STATIC, ENCODER = "static", "encoder"


@dataclass(frozen=True, slots=True)
class FitSettings:
    """The configured settings of the classifier."""

    target_coverage: float = 0.95
    """The share of a task's own texts on which the classifier must not abstain."""
    target_coverages: Mapping[str, float] = field(default_factory=dict)
    """By task, for tasks with another target."""
    stages: tuple[str, ...] = (STATIC, ENCODER)
    seed: int = 7


@dataclass(frozen=True, slots=True)
class StageModel:
    """The parameters that both stages have: a linear head, centroids and the scale of the score."""

    weights: Floats
    """(dimensions, tasks)"""
    bias: Floats
    """(tasks,)"""
    centroids: Floats
    """Centroids of the tasks' examples, (centroids, dimensions)."""
    out_of_scope: Floats
    """Centroids of texts that belong to no task, (centroids, dimensions); empty if there are none."""
    temperature: float
    scale: Scale


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The static stage's lexical features, subword pieces and word pairs, and its head over them."""

    pieces: tuple[str, ...]
    pairs: tuple[str, ...]
    """Two words separated by a space."""
    piece_rarity: Floats
    """(pieces,): inverse document frequency."""
    pair_rarity: Floats
    piece_weights: Floats
    """(pieces, tasks)"""
    pair_weights: Floats
    """(pairs, tasks)"""


@dataclass(frozen=True, slots=True)
class CascadeThreshold:
    """The limits that the static stage must reach to decide without the encoder."""

    min_margin: float
    min_score: float
    slope: float
    """With `offset`, maps the static stage's score to the score expected from the encoder."""
    offset: float


@dataclass(frozen=True, slots=True)
class FitReport:
    """Results on out-of-fold examples."""

    accuracy: float
    calibration_error: float
    coverage: float
    """The share of in-scope texts on which the classifier does not abstain."""
    escalated: float
    """The share of texts that the encoder had to classify."""
    out_of_scope_abstained: float
    """The share of out-of-scope texts on which it abstains; 0 if none were given."""


@dataclass(frozen=True, slots=True)
class ClassifierModel:
    """A fitted classifier. It has one stage or both; `vocabulary` with the static one, `threshold` with both."""

    tasks: tuple[str, ...]
    static: StageModel | None
    vocabulary: Vocabulary | None
    encoder: StageModel | None
    static_share: float
    """Weight of the static stage's logits in the encoder stage. Blended they are more accurate than either."""
    threshold: CascadeThreshold | None
    thresholds: NDArray[np.float64]
    """(tasks,): the score below which the classifier abstains, on the last stage's scale."""
    vectors: Mapping[str, Floats]
    """The encoder's vectors of each task's examples, in their order."""
    report: FitReport

    @property
    def accuracy(self) -> float:
        """Accuracy on out-of-fold examples."""
        return self.report.accuracy
