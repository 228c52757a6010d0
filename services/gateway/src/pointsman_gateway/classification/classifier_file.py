"""Saves a fitted classifier to a file, a zip archive of JSON and arrays, and loads it. Unlike loading a pickle, loading
the file executes nothing.

`load` accepts the file only if the classifier was fitted from the current examples, settings, models and library
versions.
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
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_gateway.classification.model import (
    NO_INTENTS,
    ClassifierModel,
    FitSettings,
    Intents,
    SentenceEncoder,
    StaticModel,
)

ARRAY = "$array"
"""In the file's JSON, an object with this single key stands for an array; the value is the array's name."""

FORMAT = 5
"""The version of the file format. Increment it when fitting changes; `load` then rejects files of earlier versions."""

MANIFEST = "manifest.json"

REMEDY = "`pointsman classifier fit` makes a new one"

# A fixed date, so that equal content gives equal files.
_ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class FitOrigin:
    """Everything that a fitted classifier depends on: equal origins give equal classifiers.

    `format` is `FORMAT`, `static_model` and `encoder` are fingerprints of the embedding models, `examples` and `tuning`
    are hashes of the training texts and of the settings, and `numpy` and `scipy` are version numbers.
    """

    format: int
    static_model: str
    encoder: str
    examples: str
    tuning: str
    numpy: str
    scipy: str

    @property
    def digest(self) -> str:
        """Returns a hash of the origin, 24 hexadecimal digits, for the file's name. The file itself contains all
        fields.
        """
        return hashlib.sha256(repr(self).encode()).hexdigest()[:24]


def fit_origin(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: SentenceEncoder,
    tuning: FitSettings,
    intents: Intents = NO_INTENTS,
) -> FitOrigin:
    """Returns the origin of a classifier that is fitted from these arguments with the installed numpy and scipy.

    `examples` has the texts of each task, `out_of_scope` texts that belong to no task, and `intents` optional finer
    labels of the examples.
    """
    settings = json.dumps(asdict(tuning) | {"target_coverages": dict(tuning.target_coverages)}, sort_keys=True)
    return FitOrigin(
        format=FORMAT,
        static_model=static_model.fingerprint,
        encoder=encoder.fingerprint,
        examples=examples_digest(examples, out_of_scope, intents),
        tuning=hashlib.sha256(settings.encode()).hexdigest()[:16],
        numpy=np.__version__,
        scipy=version("scipy"),
    )


def examples_digest(
    examples: Mapping[str, Sequence[str]], out_of_scope: Sequence[str], intents: Intents = NO_INTENTS
) -> str:
    """Returns a hash of the training texts and their intents, 16 hexadecimal digits. The order of a task's texts
    matters, that of the tasks does not.
    """
    canonical = (
        [[task, list(examples[task])] for task in sorted(examples)],
        [[task, list(intents[task])] for task in sorted(intents)],
        list(out_of_scope),
    )
    return hashlib.sha256(json.dumps(canonical).encode()).hexdigest()[:16]


class StaleClassifier(FailedPrecondition):
    """The classifier in the file was fitted from other examples, models, settings or versions than the current ones."""


class CorruptClassifier(FailedPrecondition):
    """The classifier's file cannot be read, or its content is not what `save` wrote."""


def save(fitted: ClassifierModel, origin: FitOrigin, path: Path) -> None:
    """Writes a classifier and its origin to a file, atomically; creates the file's folder if needed. Raises OSError."""
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
    """Reads a classifier from a file that `save` wrote.

    Raises FileNotFoundError if there is no file, StaleClassifier if its origin is not `expected`, and CorruptClassifier
    if the file cannot be read or was changed after `save`.
    """
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
    """Converts a value made of dataclasses, mappings, tuples and plain values to what `json.dumps` accepts.

    Each numpy array in it is added to `arrays`, under its location (such as "static.weights"), and replaced by
    {`ARRAY`: location}. `name` is the location of `value` itself. The items of tuples are not converted, and so must be
    plain values.
    """
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
    """Restores a value of type `shape` from `value`, which `to_json_and_arrays` has returned, and from `arrays`.

    Raises KeyError, TypeError or ValueError if `value` does not have this type, or an array is missing. The items of
    tuples and the types of arrays are not checked.
    """
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
