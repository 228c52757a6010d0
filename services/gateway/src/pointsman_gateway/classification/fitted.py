"""What a fit leaves: everything that a classifier needs but the models themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.familiarity import Scale
from pointsman_gateway.classification.softmax_regression import Floats

STATIC, ENCODER = "static", "encoder"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the configuration says of the classifier."""

    target_coverage: float = 0.95
    """The share of a task's own texts that must not be abstained from."""
    target_coverages: Mapping[str, float] = field(default_factory=dict)
    """By task, where another is wanted."""
    stages: tuple[str, ...] = (STATIC, ENCODER)
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Stage:
    """What both stages have: a linear head, and what is typical."""

    weights: Floats
    """(dimensions, tasks)"""
    bias: Floats
    """(tasks,)"""
    prototypes: Floats
    """(prototypes, dimensions): typical of the tasks."""
    foreign: Floats
    """(texts, dimensions): typical of what belongs to no task; often none."""
    temperature: float
    scale: Scale


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The static stage's further features, pieces of words and pairs of words, and its head over them."""

    pieces: tuple[str, ...]
    pairs: tuple[str, ...]
    """Two words with a space between."""
    piece_rarity: Floats
    """(pieces,): inverse document frequency."""
    pair_rarity: Floats
    piece_weights: Floats
    """(pieces, tasks)"""
    pair_weights: Floats
    """(pairs, tasks)"""


@dataclass(frozen=True, slots=True)
class Gate:
    """When the static stage's word is taken: it is sure, and the text is familiar."""

    least_margin: float
    least_familiarity: float
    slope: float
    """With `offset`: the encoder's familiarity that is to be expected of a text that passes, from the static one's."""
    offset: float


@dataclass(frozen=True, slots=True)
class Report:
    """How the classifier did on examples that it had not learned from."""

    accuracy: float
    calibration_error: float
    kept: float
    escalated: float
    """The share that the encoder had to read."""
    foreign_abstained: float
    """Of the texts that belong to no task; 0 where none were given."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """At least one of the two stages is there; `lexicon` with the static one, `gate` with both."""

    tasks: tuple[str, ...]
    static: Stage | None
    lexicon: Lexicon | None
    encoder: Stage | None
    static_share: float
    """Of the static stage's logits in the encoder's: together they are right more often than either."""
    gate: Gate | None
    thresholds: NDArray[np.float64]
    """(tasks,): the lowest score at which each is believed, on the scale of the last stage."""
    vectors: Mapping[str, Floats]
    """The encoder's, of the examples by task, in their order."""
    report: Report

    @property
    def accuracy(self) -> float:
        """Out of fold."""
        return self.report.accuracy
