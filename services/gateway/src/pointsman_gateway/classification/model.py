"""The parameters of a fitted classifier, apart from the embedding models, the settings of a fit, and the file of both.

A file is loaded only if the classifier was fitted from the current data, settings and versions. It is a zip archive of
JSON and arrays. Loading it executes nothing, unlike a pickle.
"""

import dataclasses
import hashlib
import io
import json
import os
import types
import typing
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_gateway.classification.scores import Floats, Scale

STATIC, ENCODER = "static", "encoder"

PAIR_RATIO_STEP = 1 / 16


class StaticModel(Protocol):
    """An embedding model that looks up one row per token and sums them."""

    fingerprint: str

    def sum_of(self, text: str) -> NDArray[np.float32]:
        """Returns the sum of the rows of a text's tokens, (dimensions,); zeros if no token is known."""
        ...

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the start and the end of each token, in characters."""
        ...


class Encoder(Protocol):
    """An embedding model that returns unit vectors."""

    fingerprint: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed n texts as (n, dimensions)."""
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
    """Weights of the linear head, (dimensions, tasks)."""
    bias: Floats
    """Bias of the linear head, (tasks,)."""
    centroids: Floats
    """Centroids of the tasks' examples, (centroids, dimensions)."""
    out_of_scope: Floats
    """Centroids of texts that belong to no task, (centroids, dimensions); empty if there are none."""
    temperature: float
    scale: Scale


@dataclass(frozen=True, slots=True)
class PairRatios:
    """How typical word pairs are of each task. A text of a task that has no examples often shares its words with the
    most probable task, but not its phrases.
    """

    ratios: NDArray[np.int8]
    """(pairs, tasks): log(the pair's frequency in the task's examples / that in all examples), in steps of
    `PAIR_RATIO_STEP`. A text's pair score is the sum over its pairs, divided by the root of their number; an unknown
    pair counts as 0."""
    means: Floats
    """(tasks,): the mean pair score of the task's own examples."""


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
    """Weights of the head over subword pieces, (pieces, tasks)."""
    pair_weights: Floats
    """(pairs, tasks)"""
    pair_ratios: PairRatios


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


ARRAY = "$array"
"""Key of the JSON object that refers to an array."""

FORMAT = 4
"""Increment it when fitting changes; files of an earlier format are then rejected."""

MANIFEST = "manifest.json"

REMEDY = "`pointsman classifier fit` makes a new one"

# A fixed date, so that equal content gives equal files.
_ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class FitOrigin:
    """Everything that a fit depends on: equal origins give equal classifiers."""

    format: int
    static_model: str
    encoder: str
    examples: str
    tuning: str
    numpy: str
    scipy: str

    @property
    def digest(self) -> str:
        """Return a hash for file names; the file itself contains the origin in full."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:24]


def fit_origin(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: Encoder,
    tuning: FitSettings,
) -> FitOrigin:
    """Returns the origin of a classifier that is fitted from these examples, models and settings."""
    settings = json.dumps(asdict(tuning) | {"target_coverages": dict(tuning.target_coverages)}, sort_keys=True)
    return FitOrigin(
        format=FORMAT,
        static_model=static_model.fingerprint,
        encoder=encoder.fingerprint,
        examples=examples_digest(examples, out_of_scope),
        tuning=hashlib.sha256(settings.encode()).hexdigest()[:16],
        numpy=np.__version__,
        scipy=version("scipy"),
    )


def examples_digest(examples: Mapping[str, Sequence[str]], out_of_scope: Sequence[str]) -> str:
    """Hash the training data. The order of a task's examples matters, the order of the tasks does not."""
    canonical = [[task, list(examples[task])] for task in sorted(examples)], list(out_of_scope)
    return hashlib.sha256(json.dumps(canonical).encode()).hexdigest()[:16]


class StaleClassifier(FailedPrecondition):
    """The classifier's file was fitted from other data, settings or versions than the current ones."""


class CorruptClassifier(FailedPrecondition):
    """The classifier's file differs from what `save` wrote."""


def save(fitted: ClassifierModel, origin: FitOrigin, path: Path) -> None:
    """Writes a classifier's file atomically: readers see the old file or the new one."""
    arrays: dict[str, NDArray[Any]] = {}
    packed = to_json_and_arrays(fitted, arrays)
    content = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
    manifest = {"origin": asdict(origin), "fitted": packed, "sha256": _digest(packed, content)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, data in [(MANIFEST, json.dumps(manifest).encode()), *content.items()]:
                archive.writestr(zipfile.ZipInfo(name, _ARCHIVE_DATE), data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, expected: FitOrigin) -> ClassifierModel:
    """Reads a classifier's file; raises FileNotFoundError, StaleClassifier or CorruptClassifier."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(content.pop(MANIFEST))
        origin, packed, sha256 = manifest["origin"], manifest["fitted"], manifest["sha256"]
    except FileNotFoundError:
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"it cannot be read ({error})") from error
    _check_origin(path, origin, expected)
    if sha256 != _digest(packed, content):
        raise _corrupt(path, "its content is not what its manifest describes")
    try:
        arrays = {name.removesuffix(".npy"): _array(data) for name, data in content.items()}
        fitted = from_json_and_arrays(ClassifierModel, packed, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"it does not hold a classifier ({error})") from error
    assert isinstance(fitted, ClassifierModel)
    return fitted


def _check_origin(path: Path, origin: Any, expected: FitOrigin) -> None:
    if not isinstance(origin, dict):
        raise _corrupt(path, "it does not say what it was fitted from")
    wanted = asdict(expected)
    differing = [
        f"{name}: has {origin.get(name)}, wanted {want}" for name, want in wanted.items() if origin.get(name) != want
    ]
    if differing:
        message = f"{path} was fitted from something else ({'; '.join(differing)}); {REMEDY}"
        raise StaleClassifier(message, code="stale_classifier")


def _corrupt(path: Path, reason: str) -> CorruptClassifier:
    return CorruptClassifier(f"{path} is damaged: {reason}; {REMEDY}", code="corrupt_classifier")


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _array(data: bytes) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _digest(packed: Any, content: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(json.dumps(packed, sort_keys=True).encode())
    for name in sorted(content):
        digest.update(name.encode() + content[name])
    return digest.hexdigest()


def to_json_and_arrays(value: Any, arrays: dict[str, NDArray[Any]], name: str = "") -> Any:
    """Converts a value to JSON, and puts its arrays into `arrays`, named by their location in the value."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {ARRAY: name}
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {
            field: to_json_and_arrays(getattr(value, field), arrays, f"{name}.{field}" if name else field)
            for field in fields
        }
    if isinstance(value, Mapping):
        return {key: to_json_and_arrays(item, arrays, f"{name}.{key}") for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def from_json_and_arrays(shape: Any, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Converts JSON to a value of type `shape`; raises KeyError, TypeError or ValueError if it does not match."""
    if isinstance(value, dict) and ARRAY in value:
        return arrays[value[ARRAY]]
    if isinstance(shape, types.UnionType):
        options = [option for option in typing.get_args(shape) if option is not type(None)]
        return None if value is None else from_json_and_arrays(options[0], value, arrays)
    if dataclasses.is_dataclass(shape):
        hints = typing.get_type_hints(shape)
        return typing.cast(Any, shape)(
            **{key: from_json_and_arrays(hints[key], item, arrays) for key, item in value.items()}
        )
    origin = typing.get_origin(shape)
    if origin is tuple:
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        return {key: from_json_and_arrays(typing.get_args(shape)[1], item, arrays) for key, item in value.items()}
    return shape(value)
