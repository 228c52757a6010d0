"""One SQLite file, opened so that what is committed survives a crash: one writer, several readers."""

import queue
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from pointsman_servicekit.errors import FailedPrecondition, Internal, PointsmanError, ResourceExhausted, Unavailable

_LOCK_SECONDS = 30.0
_POLL_SECONDS = 1.0  # for a reader, where the file may have been closed meanwhile


class Connections:
    """A writer that only one thread uses at a time, and a reader for each thread that asks, up to a number."""

    def __init__(self, file: Path, readers: int) -> None:
        """Opens a file that is there; raises FailedPrecondition, Unavailable or Internal where it cannot be read."""
        self.file = file
        with translate_errors(file):
            self._writer = _connect(file)
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._lock = Lock()
        self._may_open = readers
        self._opened: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Waits while all readers are lent."""
        with translate_errors(self.file):
            self._check_open()
            reader = self._reader()
            try:
                yield reader
            finally:
                if reader.in_transaction:
                    reader.execute("ROLLBACK")
                self._idle.put(reader)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block, or nothing; it ends as the block says with COMMIT, else it is rolled back."""
        with translate_errors(self.file):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def log_bytes(self) -> int:
        log = self.file.with_name(f"{self.file.name}-wal")
        return log.stat().st_size if log.exists() else 0

    def checkpoint(self) -> None:
        """As far as the readers allow; for the thread that writes. Not a commit's work: a search would wait for it."""
        with translate_errors(self.file):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Waits for those who read; for the thread that writes. Leaves one file, without a log beside it."""
        self._closed = True
        with self._lock:
            opened, self._opened, self._may_open = self._opened, [], 0
        for _ in opened:
            self._idle.get().close()
        self._writer.close()

    def _reader(self) -> sqlite3.Connection:
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
    """SQLite's own errors in our words."""
    try:
        yield
    except sqlite3.Error as error:
        raise _to_service_error(error, file) from error


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{_quoted(file)}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=_LOCK_SECONDS
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")  # a restored file may come from anywhere
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # with WAL: a commit is on the disk before it is acknowledged
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoint
        connection.execute("PRAGMA journal_size_limit = 0")  # after a checkpoint the log begins anew, and short
        connection.execute("PRAGMA cache_size = -8192")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _quoted(file: Path) -> str:
    return str(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _to_service_error(error: sqlite3.Error, file: Path) -> PointsmanError:
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
            f"{file} cannot be written ({error}); nothing of this call was written. Mount it read-write, and give it "
            "to the retriever's user",
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
    return Internal(f"{file}: {error} ({name or 'no name'})", code="store_failed")
