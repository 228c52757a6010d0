"""The parameters of a fitted classifier, apart from the embedding models, and the settings of a fit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.classes import TaskClasses
from pointsman_gateway.classification.scores import Floats, Scale

STATIC, ENCODER = "static", "encoder"

Score = TypeVar("Score", float, NDArray[np.floating])

PAIR_RATIO_STEP = 1 / 16

Intents = Mapping[str, Sequence[str]]
"""By task, the intent of each of its examples, in their order; "" for an example without one. Tasks without intents may
be absent."""

NO_INTENTS: Intents = {}


class StaticModel(Protocol):
    """An embedding model that looks up one row per token and sums them."""

    fingerprint: str

    def sum_of(self, text: str) -> NDArray[np.float32]:
        """Returns the sum of the rows of a text's tokens, (dimensions,); zeros if no token is known."""
        ...

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Returns the start and the end of each token, in characters."""
        ...


class SentenceEncoder(Protocol):
    """An embedding model that returns unit vectors."""

    fingerprint: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of n texts, each of length 1: an array (n, dimensions). Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class FitSettings:
    """The settings with which a classifier is fitted."""

    target_coverage: float = 0.95
    """The share of a task's own texts on which the classifier must not abstain."""
    target_coverages: Mapping[str, float] = field(default_factory=dict)
    """By task, for tasks with another target."""
    stages: tuple[str, ...] = (STATIC, ENCODER)
    seed: int = 7


@dataclass(frozen=True, slots=True)
class FitOrder:
    """The input of a fit that runs in a separate process: examples, models and settings."""

    examples: Mapping[str, Sequence[str]]
    """By task."""
    intents: Intents
    out_of_scope: Sequence[str]
    settings: FitSettings
    models: str
    """The folder of the embedding models."""
    encoder: Mapping[str, Any] | None
    """The configuration's `embedding`."""
    out: str
    """The file to write."""

    def to_json(self) -> str:
        settings = asdict(self.settings) | {"target_coverages": dict(self.settings.target_coverages)}
        examples = {task: list(texts) for task, texts in self.examples.items()}
        return json.dumps(
            {
                "examples": examples,
                "intents": {task: list(labels) for task, labels in self.intents.items()},
                "out_of_scope": list(self.out_of_scope),
                "settings": settings,
                "models": self.models,
                "encoder": self.encoder,
                "out": self.out,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "FitOrder":
        order = json.loads(text)
        settings = order["settings"]
        return cls(**order | {"settings": FitSettings(**settings | {"stages": tuple(settings["stages"])})})


@dataclass(frozen=True, slots=True)
class StageParameters:
    """One stage of the classifier: a linear head, centroids, the temperature that calibrates the
    head's probabilities, and the scale of the in-distribution score.
    """

    weights: Floats
    """Weights of the linear head, (dimensions, classes)."""
    bias: Floats
    """Bias of the linear head, (classes,)."""
    centroids: Floats
    """Centroids of the tasks' examples, (centroids, dimensions)."""
    out_of_scope: Floats
    """Centroids of texts that belong to no task, (centroids, dimensions); empty if there are none."""
    temperature: float
    scale: Scale


@dataclass(frozen=True, slots=True)
class PairRatios:
    """How typical word pairs are of each class. A text of a class that has no examples often shares its words with the
    most probable class, but not its phrases.
    """

    ratios: NDArray[np.int8]
    """(pairs, classes): log(the pair's frequency in the class's examples / that in all examples), in steps of
    `PAIR_RATIO_STEP`. A text's pair score is the sum over its pairs, divided by the root of their number; an unknown
    pair counts as 0."""
    means: Floats
    """(classes,): the mean pair score of the class's own examples."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The static stage's features: subword tokens and word bigrams, with their inverse document frequencies and the
    linear head's weights.
    """

    pieces: tuple[str, ...]
    pairs: tuple[str, ...]
    """Two words separated by a space."""
    piece_rarity: Floats
    """(pieces,): inverse document frequency."""
    pair_rarity: Floats
    piece_weights: Floats
    """Weights of the head over subword pieces, (pieces, classes)."""
    pair_weights: Floats
    """(pairs, classes)"""
    pair_ratios: PairRatios


@dataclass(frozen=True, slots=True)
class CascadeThreshold:
    """The margin and the score that the static stage must reach to decide without the encoder."""

    min_margin: float
    min_score: float
    slope: float
    offset: float

    def on_encoder_scale(self, static_score: Score) -> Score:
        """Converts in-distribution scores of the static stage to the encoder's scale, by a fitted line."""
        return self.slope * static_score + self.offset


@dataclass(frozen=True, slots=True)
class FitReport:
    """How well a fitted classifier does on out-of-fold examples."""

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
    classes: TaskClasses
    static: StageParameters | None
    vocabulary: Vocabulary | None
    encoder: StageParameters | None
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
        """Returns the classifier's accuracy on out-of-fold examples."""
        return self.report.accuracy
