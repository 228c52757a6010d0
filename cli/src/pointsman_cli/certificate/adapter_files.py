"""Computes digests of an adapter's files, which show changes of the adapter without loading it."""

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
"""Names of the files that determine an adapter's answers: its configuration and its weights."""

HASH = re.compile(r"[0-9a-f]{12}")
"""The form of the hash after the "@" in a version's name at a lora-server: the first 12 digits of `content_hash`."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Digests of the files in an adapter's folder, and facts about the training from the folder's training.json."""

    adapter: str
    """The adapter's name, such as "triage"."""
    sha256: Mapping[str, str]
    """The SHA-256 of each file that exists of WEIGHTS and TRAINING (training.json), by the file's name."""
    data_sha256: str
    """The SHA-256 of the training data; empty if it is unknown."""
    seed: int | None
    """The random seed of the training; None if it is unknown."""
    content_hash: str = ""
    """The hash from which a lora-server makes the name of a version with these weights; empty without weights."""

    @property
    def has_weights(self) -> bool:
        return bool(self.content_hash)

    def may_be(self, version: str) -> bool:
        """Returns whether an adapter version, such as "triage@3f9a1c0b77de", may have the weights in this folder.

        The result is True if the hash in the version's name matches these weights, or if the name has no hash.
        """
        return self.content_hash.startswith(hash_of(version))


def parse_folders(texts: Iterable[str]) -> dict[str, Path]:
    """Parses texts "NAME=FOLDER"; returns the folders by the adapter's name.

    Raises UsageError if a text has another form, or a folder lacks a file of WEIGHTS.
    """
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
    """Yields the file digests of all adapters in `folders` (by the adapter's name), then those of the `training_files`.

    Each training file is a training.json in its adapter's folder; its adapter is left out if `folders` has an adapter
    of this name. Raises UsageError if a file cannot be read, or a training.json is not JSON.
    """
    for name, folder in folders.items():
        yield read_adapter(folder, name)
    for file in training_files:
        found = read_adapter(file.parent, "", file)
        if found.adapter not in folders:
            yield found


def read_adapter(folder: Path, name: str, training: Path | None = None) -> AdapterFiles:
    """Reads the files in an adapter's folder and returns their digests.

    `name` is the adapter's name; if it is empty, the name in the training file is used. `training` is the path of the
    training file, by default training.json in the folder; it may be missing. Raises UsageError if a file cannot be
    read, or the training file is not JSON.
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
    """Returns the hash in the name of an adapter version: "3f9a1c0b77de" for "triage@3f9a1c0b77de".

    It is empty if the name has no hash, because the version was not registered at a lora-server.
    """
    digits = version.partition("@")[2]
    return digits if HASH.fullmatch(digits) else ""


def content_hash(folder: Path) -> str:
    """Returns the SHA-256 (hexadecimal) of the files WEIGHTS in a folder, as a lora-server computes it for a version.

    The hashed bytes are, for each file, its name, its length and its content. Raises UsageError if a file cannot be
    read.
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
        raise UsageError(f"{file} is not a training record ({TRAINING}): it is not JSON ({error})") from error
    return _mapping(record)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
