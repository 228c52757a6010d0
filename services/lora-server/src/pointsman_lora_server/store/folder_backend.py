"""Stores adapter versions in a folder on this machine, or on a volume that is mounted here."""

import os
import shutil
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from pointsman_servicekit.errors import FailedPrecondition, NotFound

from pointsman_lora_server.checks.attachments import SAMPLES
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.store.layout import (
    HASHED,
    MANIFEST,
    NOT_HASHED,
    folder_names,
    hash_or_none,
    remove_abandoned,
    scratch_folder,
    translating_disk_errors,
)

FileStamps = tuple[tuple[int, int, int, int], ...]
"""(inode, size, mtime, ctime) of each of the HASHED files; the times are in nanoseconds."""


class FolderBackend:
    """Stores adapter versions in a folder. A version appears and disappears atomically, by a rename. Implements
    `StoreBackend`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._hashes: dict[Path, tuple[str, FileStamps]] = {}
        self._lock = threading.Lock()
        remove_abandoned(self.root)

    def scratch(self) -> AbstractContextManager[Path]:
        return scratch_folder(self.root)

    def put(self, copy: Path, version: AdapterVersion) -> None:
        """Moves `copy`, a folder in a scratch folder of this backend, to the version's place in the store.

        If the version is already stored and its files are unchanged, only its samples are replaced, if `copy` has any.
        If the stored files were changed, all of them are replaced. Raises ResourceExhausted ("store_full") if the disk
        is full, and Unavailable ("store_unavailable") for other errors of the disk.
        """
        with translating_disk_errors(str(self.root)):
            for name in (*HASHED, *NOT_HASHED, MANIFEST):
                with suppress(FileNotFoundError):
                    _sync_and_protect(copy / name)
            target = self._target(version)
            if (target / MANIFEST).is_file() and self._is_intact(target, version):
                self._put_samples(copy, target)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                # It was changed since it was stored; the intact copy replaces it.
                target.rename(copy.with_name(f"{copy.name}.damaged"))
            try:
                copy.rename(target)
            except OSError:
                if not self._is_intact(target, version):  # unless another process has stored it meanwhile
                    raise
            _sync_folder(target.parent)
            _sync_folder(self.root)

    def fetch(self, version: AdapterVersion) -> Path:
        """Returns the version's folder in the store.

        Raises NotFound if the version is not stored here, FailedPrecondition if its files were changed, and Unavailable
        if they cannot be read.
        """
        target = self._target(version)
        if not (target / MANIFEST).is_file():
            raise NotFound(
                f"{version.version} is not in the store {self.root}; register it here", code="unknown_version"
            )
        with translating_disk_errors(str(self.root)):
            is_intact = self._is_intact(target, version)
        if not is_intact:
            raise FailedPrecondition(
                f"{target} was changed since it was stored; register {version.version} again", code="hash_mismatch"
            )
        return target

    def samples(self, version: AdapterVersion) -> bytes:
        """Returns the content of the version's samples.jsonl; empty if there is none.

        Raises NotFound if the version is not stored here, FailedPrecondition if its files were changed, and Unavailable
        if they cannot be read.
        """
        with translating_disk_errors(str(self.root)), suppress(FileNotFoundError):
            return (self.fetch(version) / SAMPLES).read_bytes()
        return b""

    def delete(self, version: AdapterVersion) -> None:
        """Deletes a version's files; does nothing if the version is not stored.

        The version disappears at once. If this process dies before all files are deleted, they are deleted at a later
        start.
        """
        target = self._target(version)
        with translating_disk_errors(str(self.root)), suppress(FileNotFoundError):
            with self.scratch() as scratch:
                target.rename(scratch / "deleted")
                _sync_folder(target.parent)
                shutil.rmtree(scratch / "deleted")
            with suppress(OSError):
                target.parent.rmdir()  # fails if other versions of the adapter are left
        with self._lock:
            self._hashes.pop(target, None)

    def _target(self, version: AdapterVersion) -> Path:
        return self.root.joinpath(*folder_names(version))

    def _is_intact(self, target: Path, version: AdapterVersion) -> bool:
        """Returns whether the files in `target` have the hash of the version.

        The files are hashed once, and again only if their `FileStamps` have changed.
        """
        stamps = _stamps(target)
        if stamps is None:
            return False
        with self._lock:
            known = self._hashes.get(target)
        if known is None or known[1] != stamps:
            digest = hash_or_none(target)
            if digest is None:
                return False
            known = (digest, stamps)
            with self._lock:
                self._hashes[target] = known
        return known[0] == version.sha256

    def _put_samples(self, copy: Path, target: Path) -> None:
        """Replaces the samples in `target` by those in `copy`, if there are any.

        Wrong samples may be the reason why the version failed its first smoke test.
        """
        new = copy / SAMPLES
        with suppress(FileNotFoundError):
            if new.read_bytes() != (target / SAMPLES).read_bytes():
                new.replace(target / SAMPLES)
            return
        with suppress(FileNotFoundError):
            new.replace(target / SAMPLES)


def _stamps(folder: Path) -> FileStamps | None:
    """Returns values that change if a file in `folder` is changed, because the ctime of a file cannot be set back.
    Returns None if a file is missing.
    """
    try:
        stats = [(folder / name).stat() for name in HASHED]
    except OSError:
        return None
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in stats)


def _sync_and_protect(path: Path) -> None:
    """Flushes the file to disk, and makes it read-only for all users who may read its folder."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o444 & path.parent.stat().st_mode)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
