"""The SQLite connections of one file, set up so that a commit survives a crash: one writer, several readers."""

import queue
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from pointsman_servicekit.errors import FailedPrecondition, Internal, PointsmanError, ResourceExhausted, Unavailable

_LOCK_TIMEOUT = 30.0  # seconds that SQLite waits for a lock on the file
_POLL_SECONDS = 1.0  # after which a thread that waits for a reader checks whether the file was closed


class Connections:
    """A writer for one thread at a time, and a pool of readers that grows up to a limit."""

    def __init__(self, file: Path, readers: int) -> None:
        """Opens an existing file; raises FailedPrecondition, Unavailable or Internal if it cannot be opened."""
        self.file = file
        with translate_errors(file):
            self._writer = _connect(file)
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._lock = Lock()
        self._may_open = readers
        self._opened: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Lends a reader for the length of the block; waits while all are in use."""
        with translate_errors(self.file):
            self._check_open()
            reader = self._take_reader()
            try:
                yield reader
            finally:
                if reader.in_transaction:
                    reader.execute("ROLLBACK")
                self._idle.put(reader)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lends the writer in a transaction, which is rolled back unless the block executes COMMIT."""
        with translate_errors(self.file):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def wal_bytes(self) -> int:
        wal = self.file.with_name(f"{self.file.name}-wal")
        return wal.stat().st_size if wal.exists() else 0

    def checkpoint(self) -> None:
        """Copies as much of the write-ahead log into the file as the readers allow; for the write thread.

        Not done as part of a commit, because searches would wait for it.
        """
        with translate_errors(self.file):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Waits for the readers in use; for the write thread. Leaves a single file without a log."""
        self._closed = True
        with self._lock:
            opened, self._opened, self._may_open = self._opened, [], 0
        for _ in opened:
            self._idle.get().close()
        self._writer.close()

    def _take_reader(self) -> sqlite3.Connection:
        with suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            self._check_open()
            opens = self._may_open > 0
            self._may_open -= opens
            if opens:
                reader = self._open_reader()
                self._opened.append(reader)
                return reader
        return self._wait_for_reader()

    def _open_reader(self) -> sqlite3.Connection:
        try:
            reader = _connect(self.file)
        except sqlite3.Error:
            self._may_open += 1
            raise
        reader.execute("PRAGMA query_only = ON")
        return reader

    def _wait_for_reader(self) -> sqlite3.Connection:
        while True:
            with suppress(queue.Empty):
                return self._idle.get(timeout=_POLL_SECONDS)
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(
                f"the collection in {self.file.parent} was deleted or replaced meanwhile; send the call again",
                code="collection_closed",
                retry_after=1.0,
            )


@contextmanager
def translate_errors(file: Path) -> Iterator[None]:
    """Turns SQLite's exceptions into PointsmanErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise _to_pointsman_error(error, file) from error


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{_quote(file)}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=_LOCK_TIMEOUT
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")  # a restored file may come from anywhere
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # in WAL mode: a commit is on disk before it is acknowledged
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoint
        connection.execute("PRAGMA journal_size_limit = 0")  # truncates the log when it restarts after a checkpoint
        connection.execute("PRAGMA cache_size = -8192")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _quote(file: Path) -> str:
    return str(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _to_pointsman_error(error: sqlite3.Error, file: Path) -> PointsmanError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return ResourceExhausted(
            f"the disk that holds {file.parent} is full; nothing of this call was written. Free some space, and send "
            "it again",
            code="disk_full",
            retry_after=60.0,
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH")):
        return FailedPrecondition(
            f"{file} cannot be written ({error}); nothing of this call was written. Mount it read-write, and make the "
            "retriever's user its owner",
            code="disk_read_only",
        )
    if name.startswith("SQLITE_IOERR"):
        return Unavailable(
            f"the disk that holds {file} failed ({name}); nothing of this call was acknowledged",
            code="disk_failed",
            retry_after=10.0,
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")):
        message = f"{file} is damaged ({error}); restore the collection's last snapshot"
        return Internal(message, code="collection_damaged")
    return Internal(f"{file}: {error} ({name or 'no SQLite error name'})", code="store_failed")
