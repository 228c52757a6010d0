"""A fitted classifier in one file, which says what it was fitted from and is refused by name once that has changed."""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_gateway.classification import examples as gathering
from pointsman_gateway.classification.fitted import Fitted, Tuning
from pointsman_gateway.classification.packing import pack, unpack
from pointsman_gateway.classification.stages import Encoder, StaticModel

FORMAT = 2
"""Raise it when a fit means something else: artefacts of the old way are then refused."""

MANIFEST = "manifest.json"

REMEDY = "`pointsman classifier fit` makes it anew"

# A fixed date, so that the same content is the same file.
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Origin:
    """All that a fit depends on; equal origins give equal classifiers."""

    format: int
    static_model: str
    encoder: str
    examples: str
    tuning: str
    numpy: str
    scipy: str


def origin_of(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: Encoder,
    tuning: Tuning,
) -> Origin:
    """Of a classifier that would be fitted from these now."""
    settings = json.dumps(asdict(tuning) | {"target_coverages": dict(tuning.target_coverages)}, sort_keys=True)
    return Origin(
        format=FORMAT,
        static_model=static_model.fingerprint,
        encoder=encoder.fingerprint,
        examples=gathering.digest(examples, out_of_scope),
        tuning=hashlib.sha256(settings.encode()).hexdigest()[:16],
        numpy=np.__version__,
        scipy=scipy.__version__,
    )


class StaleClassifier(FailedPrecondition):
    """The file was fitted from something else than what is there now."""


class CorruptClassifier(FailedPrecondition):
    """The file is not what `save` wrote."""


def save(fitted: Fitted, origin: Origin, path: Path) -> None:
    """Whoever looks sees the old file or the new one, whole."""
    arrays: dict[str, NDArray[Any]] = {}
    packed = pack(fitted, arrays)
    content = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
    manifest = {"origin": asdict(origin), "fitted": packed, "sha256": _digest(packed, content)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, data in [(MANIFEST, json.dumps(manifest).encode()), *content.items()]:
                archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, expected: Origin) -> Fitted:
    """Raises FileNotFoundError, StaleClassifier or CorruptClassifier."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(content.pop(MANIFEST))
        origin, packed, sha256 = manifest["origin"], manifest["fitted"], manifest["sha256"]
    except FileNotFoundError:
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"it cannot be read ({error})") from error
    _refuse_stale(path, origin, expected)
    if sha256 != _digest(packed, content):
        raise _corrupt(path, "its content is not what its manifest describes")
    try:
        arrays = {name.removesuffix(".npy"): _array(data) for name, data in content.items()}
        fitted = unpack(Fitted, packed, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"it does not hold a classifier ({error})") from error
    assert isinstance(fitted, Fitted)
    return fitted


def _refuse_stale(path: Path, origin: Any, expected: Origin) -> None:
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
