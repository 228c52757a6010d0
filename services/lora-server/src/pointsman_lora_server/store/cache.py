"""Which of the fetched versions make room for new ones: those that nobody has asked for the longest."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pointsman_lora_server.store.content import MANIFEST
from pointsman_lora_server.store.scratch import scratch_folder

IN_USE = 900.0
"""Seconds for which a fetched version stays whatever happens: its files are being read, by the engine or in a trial."""


def touch(folder: Path) -> None:
    """It was asked for now."""
    with suppress(OSError):
        os.utime(folder)


def too_many(root: Path, most_bytes: int, keep: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """(name, digits) of those that must go for the rest to have `most_bytes` at most."""
    found = []
    for manifest in root.glob(f"[!.]*/*/{MANIFEST}"):
        folder = manifest.parent
        with suppress(OSError):
            size = sum(file.stat().st_size for file in folder.iterdir())
            found.append((folder.stat().st_mtime, size, (folder.parent.name, folder.name)))
    total = sum(size for _, size, _ in found)
    for asked_for, size, at in sorted(found):
        if total <= most_bytes or time.time() - asked_for < IN_USE:
            return
        if at != keep:
            total -= size
            yield at


def remove(root: Path, name: str, digits: str) -> None:
    with suppress(OSError), scratch_folder(root) as scratch:
        (root / name / digits).rename(scratch / "removed")
        shutil.rmtree(scratch / "removed", ignore_errors=True)
        (root / name).rmdir()
