"""The SQLite file, opened so that what is committed survives a crash: one writer, several readers, one process."""

import fcntl
import os
import queue
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_retriever.store import schema

FILE = "collections.sqlite3"


class Connections:
    """A writer that only one thread uses at a time, and a reader for each thread that asks."""

    def __init__(self, writer: sqlite3.Connection, readers: list[sqlite3.Connection]) -> None:
        self._writer = writer
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        for reader in readers:
            self._readers.put(reader)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Waits while all readers are lent."""
        reader = self._readers.get()
        try:
            yield reader
        finally:
            self._readers.put(reader)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block, or nothing; it ends as the block says with COMMIT, else it is rolled back."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
        finally:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")


@contextmanager
def opened(folder: Path, readers: int) -> Iterator[Connections]:
    """Opens, and makes where missing, the file in `folder`; raises FailedPrecondition where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _claimed(folder):
        opened_ones: list[sqlite3.Connection] = []
        try:
            for _ in range(readers + 1):
                opened_ones.append(_connect(folder / FILE))
                if len(opened_ones) == 1:
                    schema.make_or_check(opened_ones[0])
                else:
                    opened_ones[-1].execute("PRAGMA query_only = ON")
            yield Connections(opened_ones[0], opened_ones[1:])
        finally:
            for connection in reversed(opened_ones):
                connection.close()


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=30.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # in WAL mode: each commit is on the disk before it is acknowledged
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """One process for a folder: a second would not see the first one's changes in its memory. Ends with the process."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPrecondition(
                f"{folder} is in use by another retriever; stop that one, or give this one a folder of its own",
                code="data_in_use",
            ) from error
        yield
    finally:
        os.close(lock)
