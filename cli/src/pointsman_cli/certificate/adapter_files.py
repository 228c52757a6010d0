"""Digests of an adapter's files, by which a change in a repository is noticed without any engine."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_cli.errors import UsageError

TRAINING = "training.json"
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
"""The files that determine an adapter's answers."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The files in an adapter's folder, and what its training.json says of its making."""

    adapter: str
    """The adapter's name, such as "triage"."""
    sha256: Mapping[str, str]
    """By the file's name: of those of WEIGHTS and TRAINING that there are."""
    data_sha256: str
    """Of the training data; empty if it is unknown."""
    seed: int | None
    """Of the training; None if it is unknown."""

    @property
    def has_weights(self) -> bool:
        return all(name in self.sha256 for name in WEIGHTS)


def parse_folders(texts: Iterable[str]) -> dict[str, Path]:
    """Returns folders by the adapter's name from texts "NAME=FOLDER"; raises UsageError if a folder has no adapter."""
    folders = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise UsageError(f"--adapter is {text!r}; it must be NAME=FOLDER, such as triage=adapters/triage")
        missing = [file for file in WEIGHTS if not Path(folder, file).is_file()]
        if missing:
            raise UsageError(f"--adapter {text}: the folder has no {missing[0]}")
        folders[name] = Path(folder)
    return folders


def read_adapters(training_files: Sequence[Path], folders: Mapping[str, Path]) -> Iterator[AdapterFiles]:
    """Yields the files of adapters: of `folders`, which are by the adapter's name, and of those beside training files.

    Raises UsageError if a file cannot be read, or a training.json is not one.
    """
    for name, folder in folders.items():
        yield read_adapter(folder, name)
    for file in training_files:
        found = read_adapter(file.parent, "", file)
        if found.adapter not in folders:
            yield found


def read_adapter(folder: Path, name: str, training: Path | None = None) -> AdapterFiles:
    """Reads an adapter's folder; an empty `name` is replaced by that in the training file.

    `training` is that file; by default the one in the folder, if there is one. Raises UsageError as `read_adapters`.
    """
    training = training or folder / TRAINING
    record = _record(training) if training.is_file() else {}
    files = {file: folder / file for file in WEIGHTS} | {TRAINING: training}
    data, recipe = _mapping(record.get("data")), _mapping(record.get("recipe"))
    seed = recipe.get("seed")
    return AdapterFiles(
        adapter=name or str(record.get("name", "")),
        sha256={file: _sha256(path) for file, path in files.items() if path.is_file()},
        data_sha256=str(data.get("sha256") or ""),
        seed=seed if isinstance(seed, int) else None,
    )


def _record(file: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{file} is not a training record ({TRAINING}): {error!r}") from error
    return _mapping(record)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
