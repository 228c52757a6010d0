"""The parameters of a trained classifier, and the settings of a training. The embedding models are not included."""

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
"""Finer labels of the examples: for each task, the intent of each of its examples, in the order of the examples.

"" means an example without an intent. Tasks without intents may be absent.
"""

NO_INTENTS: Intents = {}


class StaticModel(Protocol):
    """Interface of an embedding model with one vector per token; `pointsman_embedding.StaticModel` implements it."""

    fingerprint: str
    """Identifies the model: models with equal fingerprints give equal vectors."""

    def sum_of(self, text: str) -> NDArray[np.float32]:
        """Returns the sum of the vectors of a text's tokens, (dimensions,); zeros if no token is known."""
        ...

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Returns the position of each token in the text: (start, end) in characters, the end exclusive."""
        ...

    def knows(self, word: str) -> bool:
        """Returns whether a lower-case word is a token of its own in the model's vocabulary."""
        ...


class SentenceEncoder(Protocol):
    """Interface of an embedding model with one vector per text; `pointsman_embedding` has several."""

    fingerprint: str
    """Identifies the model: only vectors of models with equal fingerprints can be compared."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of n texts, each of length 1, as an array (n, dimensions). Blocks the calling thread.

        Raises Unavailable if the model is an endpoint that fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class FitSettings:
    """The settings with which a classifier is trained."""

    target_coverage: float = 0.95
    """The share of a task's texts, 0 to 1, on which the classifier should not abstain; see `task_thresholds`."""
    target_coverages: Mapping[str, float] = field(default_factory=dict)
    """Values that replace `target_coverage` for single tasks, by the task's name."""
    stages: tuple[str, ...] = (STATIC, ENCODER)
    """The stages to fit: `STATIC`, `ENCODER` or both."""
    seed: int = 7
    """The seed of the random choices of folds and centroids."""


@dataclass(frozen=True, slots=True)
class FitOrder:
    """The input of `fitting.fit.main`, which trains a classifier in a process of its own: examples, models, settings
    and the path of the result.
    """

    examples: Mapping[str, Sequence[str]]
    """The texts of each task."""
    intents: Intents
    out_of_scope: Sequence[str]
    """Texts that belong to no task; may be empty."""
    settings: FitSettings
    models: str
    """The folder of the built-in embedding models."""
    encoder: Mapping[str, Any] | None
    """The section `embedding` of the configuration (`EncoderConfig`); None for the built-in encoder."""
    out: str
    """The path of the file that the fitted classifier is written to."""

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
    """One fitted stage of the classifier: a linear head, centroids, the temperature that calibrates the stage's
    probabilities, and the scale of its in-distribution score (`Scale`).
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
class EncoderAlone:
    """The parameters with which the encoder stage classifies a text without the static stage.

    It does so for texts in another language than the examples. These parameters replace those of the same names that
    apply when both stages work together.
    """

    temperature: float
    scale: Scale
    thresholds: NDArray[np.float64]
    """In-distribution scores below which the classifier abstains, (tasks,), like `ClassifierModel.thresholds`."""


@dataclass(frozen=True, slots=True)
class PairRatios:
    """How typical each pair of adjacent words is of each class.

    The ratios help to detect out-of-scope texts: such a text often shares words with its most probable class, but few
    pairs.
    """

    ratios: NDArray[np.int8]
    """The logarithm of a ratio for each pair and class, (pairs, classes), in units of `PAIR_RATIO_STEP`.

    The ratio is the share of the class's examples that contain the pair, divided by the share of all examples that
    contain it. `Corpus.pair_ratios` smooths it; the logarithm is natural. A text's pair score for a class is the sum
    over its distinct pairs, divided by the square root of the number of pairs; an unknown pair adds 0.
    """
    means: Floats
    """The mean pair score of each class's own examples, (classes,), shrunk towards the mean of all examples."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words and parts of words that the classifier's static stage looks for in a text, and their weights for each
    class.

    They are features of two kinds: `pieces`, which are words and their character n-grams (see `pieces_of`), and `pairs`
    of adjacent words. A text's score for a class is a weighted sum over the features that the text contains. A feature
    counts more if it occurs in fewer examples (inverse document frequency).
    """

    pieces: tuple[str, ...]
    pairs: tuple[str, ...]
    """The word pairs, each as two words separated by a space."""
    piece_rarity: Floats
    """Inverse document frequency of each piece, (pieces,)."""
    pair_rarity: Floats
    """Inverse document frequency of each pair, (pairs,)."""
    piece_weights: Floats
    """Weight of each piece for each class in the linear head, (pieces, classes)."""
    pair_weights: Floats
    """Weight of each pair for each class in the linear head, (pairs, classes)."""
    pair_ratios: PairRatios


@dataclass(frozen=True, slots=True)
class CascadeThreshold:
    """When the static stage decides a text without the encoder: the least margin and the least in-distribution score.

    Also has the line, `slope` and `offset`, that converts the static stage's scores to the encoder's scale.
    """

    min_margin: float
    """Least difference between the highest and the second-highest probability of a task."""
    min_score: float
    """Least in-distribution score, on the static stage's scale."""
    slope: float
    offset: float

    def on_encoder_scale(self, static_score: Score) -> Score:
        """Converts in-distribution scores of the static stage to the encoder's scale: slope * score + offset."""
        return self.slope * static_score + self.offset


@dataclass(frozen=True, slots=True)
class FitReport:
    """How well a classifier did on its training texts. Each text was classified by models that were not trained on
    it.
    """

    accuracy: float
    """The share of in-scope texts whose most probable task is the right one, whether the classifier abstains or not."""
    calibration_error: float
    """The expected calibration error over the in-scope texts, 0 to 1; see `scores.calibration_error`."""
    coverage: float
    """The share of in-scope texts on which the classifier does not abstain."""
    escalated: float
    """The share of in-scope texts that the static stage left to the encoder."""
    out_of_scope_abstained: float
    """The share of out-of-scope texts on which the classifier abstains; 0 if there were no such texts."""


@dataclass(frozen=True, slots=True)
class ClassifierModel:
    """A trained classifier, with a static stage, an encoder stage or both.

    `vocabulary` is None without a static stage, and `threshold` is None unless there are both stages.
    """

    tasks: tuple[str, ...]
    classes: TaskClasses
    static: StageParameters | None
    vocabulary: Vocabulary | None
    encoder: StageParameters | None
    static_share: float
    """The static stage's weight, 0 to 1, in the mean of both stages' logits by which the encoder stage classifies. It
    is 0 unless there are both stages.
    """
    threshold: CascadeThreshold | None
    thresholds: NDArray[np.float64]
    """The in-distribution score below which the classifier abstains from a text, by the text's most probable task,
    (tasks,). The scores are on the encoder's scale if there is an encoder stage.
    """
    alone: EncoderAlone | None
    """The parameters with which the encoder classifies without the static stage; None unless there are both stages."""
    words: tuple[str, ...]
    """All words that occur in the examples, in lower case."""
    vectors: Mapping[str, Floats]
    """By task, the encoder's vectors of its examples in their order, (examples, dimensions)."""
    report: FitReport

    @property
    def accuracy(self) -> float:
        """Returns the `accuracy` of the report."""
        return self.report.accuracy
