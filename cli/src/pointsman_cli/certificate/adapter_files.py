"""Digests of an adapter's files, by which a change in a repository is noticed without any engine."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_cli.errors import UsageError

TRAINING = "training.json"
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
"""The files that determine an adapter's answers."""

HASH = re.compile(r"[0-9a-f]{12}")
"""What follows the "@" in the name of a lora-server's version: the first digits of `content_hash`."""

_CHUNK = 1 << 20


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
    content_hash: str = ""
    """The hash by which a lora-server names a version with these weights; empty without weights."""

    @property
    def has_weights(self) -> bool:
        return bool(self.content_hash)

    def may_be(self, version: str) -> bool:
        """Returns whether a version, such as "triage@3f9a1c0b77de", may have these weights: its hash is theirs, or it
        has none.
        """
        return self.content_hash.startswith(hash_of(version))


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
    seed, found = recipe.get("seed"), {file: _sha256(path) for file, path in files.items() if path.is_file()}
    return AdapterFiles(
        adapter=name or str(record.get("name", "")),
        sha256=found,
        data_sha256=str(data.get("sha256") or ""),
        seed=seed if isinstance(seed, int) else None,
        content_hash=content_hash(folder) if found.keys() >= {*WEIGHTS} else "",
    )


def hash_of(version: str) -> str:
    """Returns the hash in the name of an adapter version; empty if it has none, as without a lora-server."""
    digits = version.partition("@")[2]
    return digits if HASH.fullmatch(digits) else ""


def content_hash(folder: Path) -> str:
    """Returns the SHA-256 of the weights in a folder, as a lora-server computes it for the name of a version.

    Each file is preceded by its name and length. Raises UsageError if a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in WEIGHTS:
        try:
            with (folder / name).open("rb") as file:
                digest.update(f"{name}\n{os.fstat(file.fileno()).st_size}\n".encode())
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise UsageError(f"cannot read {folder / name}: {error.strerror or error}") from error
    return digest.hexdigest()


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
