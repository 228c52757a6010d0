"""Folders for what is unfinished, beside the versions: a process that dies leaves one, and the next clears it."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INCOMING = ".incoming"  # no adapter can be called that: names have no dot
YOUNG = 60.0
"""Seconds within which a folder's maker may not have locked it yet."""


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """On the file system of `root`, so that what is whole can be renamed into its place. Gone afterwards."""
    incoming = root / INCOMING
    incoming.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=incoming))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network file system without locks: then only age tells
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Removes what dead processes have left unfinished."""
    with suppress(OSError):
        for folder in (root / INCOMING).iterdir():
            if time.time() - folder.lstat().st_mtime > YOUNG and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
