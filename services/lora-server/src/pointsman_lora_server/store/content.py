"""What a stored version's folder holds, and the hash that names it."""

import hashlib
import os
from pathlib import Path

from pointsman_lora_server.checks.files import CONFIG, REPORT, WEIGHTS
from pointsman_lora_server.checks.samples import SAMPLES
from pointsman_lora_server.domain import AdapterVersion

MANIFEST = "manifest.json"
HASHED = (CONFIG, WEIGHTS)
BESIDE = (SAMPLES, REPORT)
"""Kept where they are there; no part of the hash, since neither changes an answer."""


def content_hash(folder: Path) -> str:
    """SHA-256 over both files, each preceded by its name and its length, so that no byte can change sides."""
    digest = hashlib.sha256()
    for name in HASHED:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}\n{os.fstat(file.fileno()).st_size}\n".encode())
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def hash_or_none(folder: Path) -> str | None:
    try:
        return content_hash(folder)
    except OSError:
        return None


def place(version: AdapterVersion) -> tuple[str, str]:
    """The names of its two folders below the store's root: the adapter's, and the first digits of the hash."""
    return version.name, version.version.partition("@")[2]
