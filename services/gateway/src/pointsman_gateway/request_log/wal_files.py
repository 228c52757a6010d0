"""The files of a write-ahead log, locked by the process that writes them."""

import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

SEGMENT_A, SEGMENT_B, FEEDBACK = ".a.jsonl", ".b.jsonl", ".feedback.jsonl"


class LockedFile:
    """An append-only file that one process keeps locked until it closes the file or ends. Each method raises OSError if
    the operating system reports an error.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._torn = False
        """Whether the file may end with an incomplete line."""

    def append(self, line: bytes) -> None:
        """Appends a line without synchronising it to disk: it survives the end of the process, not of the machine.

        If it raises OSError, part of the line may be in the file; the next append removes that part.
        """
        if self._torn:
            self.truncate(self.size)
        self._torn = True
        if os.write(self._descriptor, line) < len(line):
            raise OSError("the disk is full")
        self._torn = False
        self.size += len(line)

    def append_and_sync(self, line: bytes) -> None:
        """Appends a line and synchronises it to disk; if that raises OSError, removes the line again."""
        before = self.size
        try:
            self.append(line)
            self.sync()
        except OSError:
            self.truncate(before)
            raise

    def read(self) -> bytes:
        return self.path.read_bytes()

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self.size = size
        self._torn = False

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()


def lock_file(path: Path, flags: int = 0) -> LockedFile | None:
    """Opens and locks a file; `flags` are passed to `os.open` in addition to the usual ones.

    Returns None if the file does not exist, or another process holds the lock or has just removed the file. Raises
    OSError for any other error.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return LockedFile(path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def create_files(folder: Path, writer: str) -> tuple[LockedFile, LockedFile, LockedFile]:
    """Creates and locks the files of a log: two segments and the feedback file. Raises OSError if that fails.

    The process that holds the lock on the first segment owns the whole log.
    """
    while True:
        name = f"wal-{writer}-{secrets.token_hex(4)}"
        segment_a = lock_file(folder / (name + SEGMENT_A), os.O_CREAT | os.O_EXCL)
        if segment_a is None:
            continue  # another process took it for an orphaned log before it was locked
        segment_b = lock_file(folder / (name + SEGMENT_B), os.O_CREAT | os.O_EXCL)
        feedback = lock_file(folder / (name + FEEDBACK), os.O_CREAT | os.O_EXCL)
        if segment_b and feedback:
            directory = os.open(folder, os.O_RDONLY)
            os.fsync(directory)  # otherwise the names could be lost although the feedback is on disk
            os.close(directory)
            return segment_a, segment_b, feedback


def remove_files(files: Sequence[LockedFile]) -> None:
    for file in sorted(files, key=lambda file: file.path, reverse=True):  # the first segment last: it locks the log
        file.remove()
