"""Storage errors: the PointsmanErrors that report a failing disk or a damaged collection's file."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pointsman_servicekit.errors import FailedPrecondition, Internal, PointsmanError, ResourceExhausted, Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def translate_errors(file: Path) -> Iterator[None]:
    """Converts exceptions of SQLite in the block to storage errors; `file` is the file that the block reads or writes.

    These are ResourceExhausted ("disk_full"), FailedPrecondition ("disk_read_only", also for a file that is missing or
    cannot be opened), Unavailable ("disk_failed") and Internal ("collection_damaged", or "store_failed" for any other
    exception of SQLite).
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _to_storage_error(error, file) from error


@contextmanager
def translate_disk_errors(file: Path) -> Iterator[None]:
    """Converts an OSError in the block, which writes `file` or a folder of this name, to a storage error.

    These are ResourceExhausted ("disk_full"), FailedPrecondition ("disk_read_only") and, for any other OSError,
    Unavailable ("disk_failed").
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(file) from error
        if error.errno in _READ_ONLY:
            raise _read_only(file, error) from error
        raise _disk_failed(file, error.strerror or str(error)) from error


def _to_storage_error(error: sqlite3.Error, file: Path) -> PointsmanError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return _disk_full(file)
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH")):
        return _read_only(file, error)
    if name.startswith("SQLITE_IOERR"):
        return _disk_failed(file, name)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")) or _is_undecodable(error):
        message = f"{file} is damaged ({error}); restore the collection's last snapshot"
        return Internal(message, code="collection_damaged")
    return Internal(f"{file}: {error} ({name or 'no SQLite error name'})", code="store_failed")


def _is_undecodable(error: sqlite3.Error) -> bool:
    """Returns whether a text in the file is not UTF-8: Python finds this, and SQLite has no error name for it."""
    return type(error) is sqlite3.OperationalError and not hasattr(error, "sqlite_errorname")


def _disk_full(file: Path) -> ResourceExhausted:
    return ResourceExhausted(
        f"the disk that holds {file.parent} is full; nothing of this call was written. Free some space, and send "
        "it again",
        code="disk_full",
        retry_after=60.0,
    )


def _read_only(file: Path, error: Exception) -> FailedPrecondition:
    return FailedPrecondition(
        f"{file} cannot be written ({error}); nothing of this call was written. Mount it read-write, and make the "
        "retriever's user its owner",
        code="disk_read_only",
    )


def _disk_failed(file: Path, why: str) -> Unavailable:
    return Unavailable(
        f"the disk that holds {file} failed ({why}); nothing of this call was acknowledged",
        code="disk_failed",
        retry_after=10.0,
    )
