"""Writes a data set as a folder named by its content, with a manifest of where the rows come from."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pointsman_lab.datasets.rows import DataSet, PreferencePair, Row

VERSION = 1
MANIFEST, LATEST = "manifest.json", "latest"
TRAIN, HELDOUT, PAIRS, HELDOUT_PAIRS = "train.jsonl", "heldout.jsonl", "pairs.jsonl", "heldout_pairs.jsonl"
NAME_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Origin:
    """What the manifest states in addition to the rows."""

    task: str
    configuration: str
    """Digest of the configuration."""
    consent: Mapping[str, Any]
    dropped: Mapping[str, int]
    withdrawn: int
    collections: Sequence[str]
    """Collections that the teacher path retrieves from."""


@dataclass(frozen=True, slots=True)
class WrittenDataSet:
    folder: Path
    manifest: Mapping[str, Any]
    is_new: bool


def write(data: DataSet, origin: Origin, root: Path) -> WrittenDataSet:
    """Writes to `root`/TASK/HASH. If that content exists already, the folder is left unchanged. Raises OSError."""
    files: Mapping[str, Sequence[Row | PreferencePair]] = {
        TRAIN: data.train,
        HELDOUT: data.heldout,
        PAIRS: data.pairs,
        HELDOUT_PAIRS: data.heldout_pairs,
    }
    texts = {name: _lines(rows) for name, rows in files.items()}
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    name = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:NAME_DIGITS]
    versions = root / origin.task
    parent = _latest(versions)
    folder = versions / name
    if (folder / MANIFEST).is_file():
        _set_latest(versions, name)
        return WrittenDataSet(folder, json.loads((folder / MANIFEST).read_text("utf-8")), False)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, "utf-8")
    manifest = _manifest(data, origin, name, parent, digests)
    # Last, so that a folder with a manifest is complete.
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    _set_latest(versions, name)
    return WrittenDataSet(folder, manifest, True)


def _manifest(data: DataSet, origin: Origin, name: str, parent: str, digests: Mapping[str, str]) -> dict[str, Any]:
    rows = {"train": data.train, "heldout": data.heldout}
    pairs = {"pairs": data.pairs, "heldout_pairs": data.heldout_pairs}
    return {
        "v": VERSION,
        "task": origin.task,
        "name": name,
        "parent": parent,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": origin.configuration,
        "counts": {side: len(some) for side, some in {**rows, **pairs}.items()},
        "sources": {side: _sources(some) for side, some in rows.items()},
        "tenants": dict(sorted(Counter(row.tenant for row in (*data.train, *data.heldout) if row.decision).items())),
        "consent": dict(origin.consent),
        "withdrawn": origin.withdrawn,
        "dropped": dict(origin.dropped),
        "collections": list(origin.collections),
        "digests": dict(digests),
        "decisions": {side: [row.decision for row in some] for side, some in rows.items()}
        | {side: [pair.right.decision for pair in some] for side, some in pairs.items()},
    }


def _sources(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(row.source for row in rows)
    return {source.name.lower(): counts[source] for source in sorted(counts, reverse=True)}


def _lines(rows: Sequence[Row | PreferencePair]) -> str:
    return "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows)


def _latest(versions: Path) -> str:
    try:
        return (versions / LATEST).read_text("utf-8").strip()
    except FileNotFoundError:
        return ""


def _set_latest(versions: Path, name: str) -> None:
    """Replaces the file atomically."""
    temporary = versions / f".{LATEST}"
    temporary.write_text(name + "\n", "utf-8")
    temporary.replace(versions / LATEST)
