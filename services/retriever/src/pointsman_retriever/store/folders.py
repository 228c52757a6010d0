"""The data folder: TENANT/NAME/ for each collection, made and removed in one step each, and a lock on the whole."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_retriever.domain import NAME_PATTERN, CollectionId

STORE_FILE = "store.sqlite3"
FILE_OF_VERSION_1 = "collections.sqlite3"

_SCRATCH = ".scratch"  # what is being made, and what is being removed


class DataFolder:
    """For the process that has claimed the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scratch = root / _SCRATCH

    def all(self) -> list[CollectionId]:
        return sorted(
            CollectionId(tenant.name, folder.name)
            for tenant in self._root.iterdir()
            if NAME_PATTERN.fullmatch(tenant.name) and tenant.is_dir()
            for folder in tenant.iterdir()
            if NAME_PATTERN.fullmatch(folder.name) and (folder / STORE_FILE).exists()
        )

    def folder(self, collection: CollectionId) -> Path:
        assert NAME_PATTERN.fullmatch(collection.tenant), collection.tenant
        assert NAME_PATTERN.fullmatch(collection.name), collection.name
        return self._root / collection.tenant / collection.name

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the same disk, removed at the end if it is still there."""
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put_in_place(self, made: Path, collection: CollectionId) -> None:
        """Makes a whole folder the collection's, which has none; after a crash it is there whole, or not at all."""
        target = self.folder(collection)
        target.parent.mkdir(exist_ok=True)
        made.rename(target)
        for folder in (target.parent, self._root):
            sync_folder(folder)

    def exchange(self, made: Path, collection: CollectionId) -> None:
        """Puts the whole file that `made` holds in the place of the collection's, which must be closed, at once."""
        folder = self.folder(collection)
        for name in (f"{STORE_FILE}-wal", f"{STORE_FILE}-shm"):
            (folder / name).unlink(missing_ok=True)  # the old file's: the new one must not meet its log
        sync_folder(folder)
        (made / STORE_FILE).replace(folder / STORE_FILE)
        sync_folder(folder)

    def remove(self, collection: CollectionId) -> None:
        """At once for whoever looks; the files follow."""
        folder = self.folder(collection)
        with self.scratch() as scratch:
            folder.rename(scratch / "removed")
            sync_folder(folder.parent)

    def sweep(self) -> None:
        """Removes what a process that was killed had half made or half removed."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()


@contextmanager
def claim_data_folder(root: Path) -> Iterator[DataFolder]:
    """The data folder, made where it is missing, for this process alone.

    Raises FailedPrecondition where it is in use, cannot be written, or is of another release.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _cannot_write(root, error) from error
    try:
        _lock(lock, root)
        _refuse_version_1(root)
        folders = DataFolder(root)
        try:
            folders.sweep()
        except OSError as error:
            raise _cannot_write(root, error) from error
        yield folders
    finally:
        os.close(lock)


def sync_folder(folder: Path) -> None:
    """Puts a folder's entries on the disk: a rename is durable only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _lock(lock: int, root: Path) -> None:
    # A second process would not see the first one's changes in its memory. The lock ends with the process.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FailedPrecondition(
            f"{root} is in use by another retriever; stop that one, or give this one a folder of its own",
            code="data_in_use",
        ) from error


def _refuse_version_1(root: Path) -> None:
    if (root / FILE_OF_VERSION_1).exists():
        raise FailedPrecondition(
            f"{root / FILE_OF_VERSION_1} has schema version 1, all collections in one file, and this release keeps a "
            "folder for each; move the file away and ingest again, or use the release that wrote it",
            code="unknown_schema_version",
        )


def _cannot_write(root: Path, error: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"the data folder {root} cannot be written: {error.strerror}; give the retriever a folder that it can write to",
        code="data_folder_unusable",
    )
