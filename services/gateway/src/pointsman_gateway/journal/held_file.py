"""A file that one process holds locked until it closes it, or ends, however it ends."""

import fcntl
import os
from pathlib import Path


class HeldFile:
    """What is appended outlives the process at once, and the machine after `sync`. Each method may raise OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._torn = False
        """Whether half a line may stand at its end."""

    def append(self, line: bytes) -> None:
        """Where it raises, half of the line may be there, until something else is appended."""
        if self._torn:
            self.truncate(self.size)
        self._torn = True
        if os.write(self._descriptor, line) < len(line):
            raise OSError("the disk is full")
        self._torn = False
        self.size += len(line)

    def append_for_good(self, line: bytes) -> None:
        """The line is on disk then; where it raises, the file is as it was."""
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


def hold(path: Path, flags: int = 0) -> HeldFile | None:
    """None where another process holds it, or has just removed it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return HeldFile(path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
