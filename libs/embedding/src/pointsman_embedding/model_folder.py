"""The model's folder: which files it has, whether they are whole, and what they are called together."""

import hashlib
import json
from pathlib import Path

GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
MANIFEST = "manifest.json"
FINGERPRINT_PREFIX = "minilm-l6-v2-int8"

# Raise it when the way of making the files changes: folders made in the old way are then made again.
RECIPE = 2


class ModelMissing(FileNotFoundError):
    """The folder does not hold a complete model."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"no embedding model in {folder}: {reason}; make it with `python -m pointsman_embedding.prepare {folder}`"
        )
        self.folder = folder
        self.reason = reason


def fingerprint(folder: Path) -> str:
    """The model's name by content: equal fingerprints give vectors that can be compared.

    Raises ModelMissing when the graph or the tokenizer is not there.
    """
    digest = hashlib.sha256()
    for name in (GRAPH, TOKENIZER):
        digest.update(_bytes_of(folder, name))
    return f"{FINGERPRINT_PREFIX}-{digest.hexdigest()[:12]}"


def write_manifest(folder: Path) -> None:
    """Says what the folder holds; written last, so that a folder with a manifest is complete."""
    manifest = {"recipe": RECIPE, "fingerprint": fingerprint(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def check(folder: Path) -> str:
    """The fingerprint of a folder that is complete, unchanged and of this recipe; else raises ModelMissing."""
    try:
        manifest = json.loads(_bytes_of(folder, MANIFEST))
    except ValueError as error:
        raise ModelMissing(folder, f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("recipe") != RECIPE:
        raise ModelMissing(folder, f"it was not made by recipe {RECIPE}, the one that this version reads")
    found = fingerprint(folder)
    if manifest.get("fingerprint") != found:
        raise ModelMissing(folder, f"its files are {found}, its {MANIFEST} says {manifest.get('fingerprint')}")
    return found


def _bytes_of(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelMissing(folder, f"{name} is not there" if folder.is_dir() else "there is no such folder") from error
