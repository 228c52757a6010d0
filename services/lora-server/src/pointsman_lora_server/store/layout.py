"""Defines the files in the folder of a stored version, the hash that names the version, scratch folders, and the
store's errors.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pointsman_servicekit.errors import PointsmanError, ResourceExhausted, Unavailable

from pointsman_lora_server.checks.attachments import SAMPLES
from pointsman_lora_server.checks.untrusted_input import CONFIG, REPORT, WEIGHTS
from pointsman_lora_server.domain import AdapterVersion

MANIFEST = "manifest.json"
HASHED = (CONFIG, WEIGHTS)
NOT_HASHED = (SAMPLES, REPORT)
"""Optional files that do not change the adapter's answers, and so are not part of the hash."""

INCOMING = ".incoming"  # cannot be an adapter's name, since names contain no dot
MIN_ABANDONED_SECONDS = 60.0
"""A scratch folder younger than this is not removed, because a process may have created it and not locked it yet."""
MIN_ABANDONED_SECONDS_WITHOUT_LOCKS = 86_400.0
"""Replaces `MIN_ABANDONED_SECONDS` on a file system without locks. There, only its age distinguishes the folder of a
dead process from the folder of a long download."""

DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def content_hash(folder: Path) -> str:
    """Returns the SHA-256 of the HASHED files in an adapter's folder, in hexadecimal. Raises OSError if a file cannot
    be read.

    Each file is preceded by its name and length, so that no bytes can move from one file to the other without changing
    the hash.
    """
    digest = hashlib.sha256()
    for name in HASHED:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}\n{os.fstat(file.fileno()).st_size}\n".encode())
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def hash_or_none(folder: Path) -> str | None:
    """Returns `content_hash` of an adapter's folder; None if a file is missing or cannot be read."""
    try:
        return content_hash(folder)
    except OSError:
        return None


def folder_names(version: AdapterVersion) -> tuple[str, str]:
    """Returns the names of the two nested folders below the store's root that contain a version: the adapter's name,
    and the version's hash.
    """
    return version.name, version.version.partition("@")[2]


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """Yields a temporary folder on the file system of `root`, so that finished files can be renamed to their place in
    the store.

    The folder is removed after the block; if the process dies, `remove_abandoned` removes it later. Raises OSError if
    the folder cannot be created.
    """
    incoming = root / INCOMING
    incoming.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=incoming))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network file system without locks; then only the age is checked
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(root: Path) -> None:
    """Removes the scratch folders of dead processes that are older than MIN_ABANDONED_SECONDS; ignores errors of the
    disk.

    On a file system without locks, removes all scratch folders that are older than MIN_ABANDONED_SECONDS_WITHOUT_LOCKS.
    """
    with suppress(OSError):
        for folder in (root / INCOMING).iterdir():
            age = time.time() - folder.lstat().st_mtime
            if age > MIN_ABANDONED_SECONDS and _is_abandoned(folder, age):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path, age: float) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # a living process has locked it
        return False
    except OSError:  # the file system has no locks, or none of folders (NFS)
        return age > MIN_ABANDONED_SECONDS_WITHOUT_LOCKS
    finally:
        os.close(descriptor)
    return True


@contextmanager
def translating_disk_errors(location: str) -> Iterator[None]:
    """Returns a context manager that converts an OSError of its block: to ResourceExhausted ("store_full") if the disk
    is full, else to Unavailable ("store_unavailable").

    FileNotFoundError is raised as it is, because its meaning depends on the caller. `location` is the store's root, for
    the message.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL_ERRORS:
            raise ResourceExhausted(
                f"the adapter store {location} is full ({error.strerror}); delete versions that nobody needs "
                "(`pointsman adapters delete`), or give it more room",
                code="store_full",
            ) from error
        raise _unavailable(location, error) from error


@contextmanager
def translating_service_errors(url: str) -> Iterator[None]:
    """Returns a context manager that converts errors of its block: to ResourceExhausted ("store_full") if the disk is
    full, else to Unavailable ("store_unavailable").

    PointsmanErrors and FileNotFoundError are raised as they are. All other errors are converted, not only OSErrors,
    because fsspec's implementations raise errors of their client libraries, which have no common base class.
    """
    try:
        with translating_disk_errors(url):
            yield
    except (PointsmanError, FileNotFoundError):
        raise
    except Exception as error:
        raise _unavailable(url, error) from error


def _unavailable(location: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the adapter store {location} cannot be used now: {error or type(error).__name__}",
        code="store_unavailable",
        retry_after=5.0,
    )
