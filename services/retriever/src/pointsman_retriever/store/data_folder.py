"""Manages the data folder, which has a folder TENANT/NAME for each collection. These are created and removed
atomically, and the whole data folder is locked for one process.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_retriever.domain import NAME_PATTERN, CollectionId
from pointsman_retriever.store.errors import translate_disk_errors

STORE_FILE = "store.sqlite3"
MOVE_FILE = "move"  # in a collection's folder: the store to which it is being moved

_SCRATCH = ".scratch"  # for collections that are being created or removed
_ASIDE = ".aside"  # ends the name of a collection's folder while another one takes its place
_ID = ".id"
_ID_BYTES = 6


class DataFolder:
    """Finds, creates, replaces and removes the folders of collections below `root`.

    Only the process that has locked `root` may use it (`claim_data_folder`). Methods that write raise the errors of
    `translate_disk_errors`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scratch = root / _SCRATCH

    def collections(self) -> list[CollectionId]:
        return sorted(
            CollectionId(tenant.name, folder.name)
            for tenant in self._root.iterdir()
            if NAME_PATTERN.fullmatch(tenant.name) and tenant.is_dir()
            for folder in tenant.iterdir()
            if NAME_PATTERN.fullmatch(folder.name) and (folder / STORE_FILE).exists()
        )

    def id(self) -> str:
        """Returns the random id of the data folder, 12 hexadecimal digits.

        Makes and stores a new id if there is no valid one. Raises OSError if the file with the id cannot be read or
        written, or storage errors (`translate_disk_errors`).
        """
        file = self._root / _ID
        if file.exists() and re.fullmatch(rb"[0-9a-f]{%d}" % (2 * _ID_BYTES), known := file.read_bytes()):
            return known.decode("ascii")
        made = token_hex(_ID_BYTES)
        with self.scratch() as scratch:
            (scratch / _ID).write_text(made)
            sync_file(scratch / _ID)
            (scratch / _ID).replace(file)
        sync_folder(self._root)
        return made

    def mark_move(self, folder: Path, to: str) -> None:
        """Records durably, in a collection's folder, that it is not known whether the collection's move to the store
        `to` was committed.
        """
        with translate_disk_errors(folder):
            (folder / MOVE_FILE).write_text(to, "utf-8")
        sync_file(folder / MOVE_FILE)
        sync_folder(folder)

    def marked_move(self, collection_id: CollectionId) -> str:
        """Returns the store to which a move of the collection was begun, if it is not known whether the move was
        committed; otherwise ''.
        """
        file = self.folder(collection_id) / MOVE_FILE
        with translate_disk_errors(file):
            return file.read_text("utf-8") if file.exists() else ""

    def unmark_move(self, collection_id: CollectionId) -> None:
        folder = self.folder(collection_id)
        with translate_disk_errors(folder):
            (folder / MOVE_FILE).unlink(missing_ok=True)
            sync_folder(folder)

    def folder(self, collection_id: CollectionId) -> Path:
        assert NAME_PATTERN.fullmatch(collection_id.tenant), collection_id.tenant
        assert NAME_PATTERN.fullmatch(collection_id.name), collection_id.name
        return self._root / collection_id.tenant / collection_id.name

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yields a new empty folder on the data folder's file system; removes it after the block unless it was moved
        away.
        """
        with translate_disk_errors(self._scratch):
            folder = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def installing(self, folder: Path, collection_id: CollectionId) -> Iterator[None]:
        """Moves a folder with a complete collection's file to the place of a new collection.

        The move is atomic, even if the process crashes. The block loads the collection from its new place. If the block
        raises, the folder is removed.
        """
        target = self.folder(collection_id)
        with translate_disk_errors(target):
            target.parent.mkdir(exist_ok=True)
            sync_folder(self._root)
        try:
            _move(folder, target)
            yield
        except BaseException:
            if target.exists() and not folder.exists():
                self._discard(target)
            raise

    @contextmanager
    def setting_aside(self, collection_id: CollectionId) -> Iterator[None]:
        """Moves a collection's folder away for the length of the block, which installs another folder in its place.

        After the block, the old folder is deleted; if the block raises, the old folder is moved back. If the process is
        killed in the block, `finish_replacements` moves the old folder back at the next start, unless the new folder
        was installed.
        """
        folder, aside = self.folder(collection_id), self._aside(collection_id)
        try:
            _move(folder, aside)
            yield
        except BaseException:
            if aside.exists():
                _move(aside, folder)
            raise
        self._discard(aside)

    def replace_file(self, folder: Path, collection_id: CollectionId) -> None:
        """Replaces a collection's file by the file in `folder`, atomically; all its connections must be closed."""
        target = self.folder(collection_id)
        with translate_disk_errors(target / STORE_FILE):
            for name in (f"{STORE_FILE}-wal", f"{STORE_FILE}-shm"):
                (target / name).unlink(missing_ok=True)  # SQLite would apply the old file's log to the new file
            sync_folder(target)
            (folder / STORE_FILE).replace(target / STORE_FILE)
            sync_folder(target)

    def remove(self, collection_id: CollectionId) -> None:
        """Removes a collection's folder; does nothing if there is none.

        Also removes an older folder of the collection that a failed replacement has left.
        """
        for folder in (self._aside(collection_id), self.folder(collection_id)):
            if folder.exists():
                self._discard(folder)

    def finish_replacements(self) -> None:
        """Finishes the replacements of collections' folders that a killed process has not finished; to be called at
        start.

        The old folder is deleted if the new one was installed in its place, and moved back if it was not.
        """
        for aside in list(self._root.glob(f"*/*{_ASIDE}")):
            folder = aside.with_suffix("")
            if (folder / STORE_FILE).exists():
                self._discard(aside)
            else:
                _move(aside, folder)

    def clear_scratch(self) -> None:
        """Empties the scratch folder, in which a killed process may have left collections half created or half removed.

        Raises OSError if the folder cannot be made again.
        """
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()

    def _aside(self, collection_id: CollectionId) -> Path:
        return self.folder(collection_id).with_suffix(_ASIDE)

    def _discard(self, folder: Path) -> None:
        """Renames a folder, then deletes it, so that after a crash it is at its place as a whole or not at all.

        A folder that was renamed and not deleted is deleted by the next start.
        """
        with self.scratch() as scratch, translate_disk_errors(folder):
            folder.rename(scratch / "removed")
            sync_folder(folder.parent)


@contextmanager
def claim_data_folder(root: Path) -> Iterator[DataFolder]:
    """Locks the data folder `root` for this process during the block; creates the folder if it is missing.

    Raises FailedPrecondition if another process has locked the folder ("data_in_use"), or if the folder cannot be
    written ("data_folder_unusable"), and storage errors (`translate_disk_errors`) if an interrupted replacement of a
    collection cannot be finished.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _cannot_write(root, error) from error
    try:
        _lock(lock, root)
        data_folder = DataFolder(root)
        try:
            data_folder.clear_scratch()
        except OSError as error:
            raise _cannot_write(root, error) from error
        data_folder.finish_replacements()
        yield data_folder
    finally:
        os.close(lock)


def sync_folder(folder: Path) -> None:
    """Flushes the entries of a folder to disk, so that a rename in it is durable.

    Raises the errors of `translate_disk_errors`.
    """
    with translate_disk_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file(file: Path) -> None:
    with translate_disk_errors(file), file.open("rb") as opened:
        os.fsync(opened.fileno())


def _move(folder: Path, target: Path) -> None:
    """Renames a folder; when this returns, the new name is on disk."""
    with translate_disk_errors(target):
        folder.rename(target)
        sync_folder(target.parent)


def _lock(lock: int, root: Path) -> None:
    # A second process would not see this one's changes in its memory. The lock is released when the process ends.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FailedPrecondition(
            f"{root} is in use by another retriever; stop that one, or give this one a folder of its own",
            code="data_in_use",
        ) from error


def _cannot_write(root: Path, error: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"the data folder {root} cannot be written: {error.strerror}; give the retriever a folder that it can write to",
        code="data_folder_unusable",
    )
