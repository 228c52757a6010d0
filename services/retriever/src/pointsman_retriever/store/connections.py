"""The SQLite connections of a collection's file, and functions that read from it.

A file has one connection that writes and several that only read, set up so that a commit survives a crash. The
functions read passages for searches, and chunks for the in-memory indexes.
"""

import json
import queue
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from pointsman_servicekit.errors import Unavailable

from pointsman_retriever.domain import Chunk, Ids, IndexedChunks, Neighbour, Passage, RankedChunk, to_passage
from pointsman_retriever.store.errors import translate_errors

_LOCK_TIMEOUT_SECONDS = 30.0  # seconds that SQLite waits for a lock on the file
_POLL_SECONDS = 1.0  # after which a thread that waits for a reader checks whether the file was closed

ROWS_PER_BATCH = 4096
_SELECT_CHUNKS = "SELECT id, document, context, text, vector FROM chunks"
_SELECT_PASSAGES = """
    SELECT json_group_array(json_array(
        chunks.id, row, documents.id, title, chunks.text, start, end,
        json((SELECT json_group_object(key, value) FROM metadata WHERE document = row)), context
    ))
    FROM chunks JOIN documents ON document = row WHERE chunks.id IN (SELECT value FROM json_each(?))
"""


class Connections:
    """The SQLite connections of one file.

    One connection writes, for one thread at a time; up to `readers` connections read.
    """

    def __init__(self, file: Path, readers: int) -> None:
        """Opens an existing file; raises storage errors (`translate_errors`) if it cannot be opened."""
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
        """Yields a connection that only reads, for the length of the block; waits if all of them are in use.

        Converts exceptions of SQLite in the block to storage errors (`translate_errors`). Raises Unavailable
        ("collection_closed") after `close`.
        """
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
        """Yields the connection that writes, in a transaction.

        The transaction is rolled back if the block does not execute COMMIT. Converts exceptions of SQLite in the block
        to storage errors (`translate_errors`). Raises Unavailable ("collection_closed") after `close`.
        """
        with translate_errors(self.file):
            self._check_open()
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
        """Copies the write-ahead log into the file, except changes newer than a running read; call it in the write
        thread.

        Without this call, SQLite would copy the log in a commit, and searches would wait for the commit. Raises storage
        errors (`translate_errors`).
        """
        with translate_errors(self.file):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Waits for the readers in use, and closes all connections; SQLite then removes the write-ahead log.

        To be called in the write thread.
        """
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


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{_quote(file)}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_LOCK_TIMEOUT_SECONDS,
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


@dataclass(frozen=True, slots=True)
class ReadTransaction:
    """Reads from one version of a collection on disk, within a transaction of the connection `reader`."""

    reader: sqlite3.Connection
    version: int

    def passages(self, ranked: Sequence[RankedChunk], neighbours: int) -> tuple[Passage, ...]:
        """Returns the passages of the chunks `ranked`, in their order; all chunks must exist in this version.

        Each passage has up to `neighbours` chunks of its document before it, and as many after it.
        """
        # The query returns one row of JSON: SQLite releases the GIL after each row, and if other threads are busy the
        # search waits to get it back.
        (found,) = self.reader.execute(_SELECT_PASSAGES, (json.dumps([one.chunk for one in ranked]),)).fetchone()
        rows = {chunk: row for chunk, *row in json.loads(found)}
        return tuple(self._passage(one, rows[one.chunk], neighbours) for one in ranked)

    def _passage(self, ranked: RankedChunk, row: list[Any], neighbours: int) -> Passage:
        document, *content = row
        start = content[3]
        before = self._neighbours(document, "start < ? ORDER BY start DESC", start, neighbours)
        after = self._neighbours(document, "start > ? ORDER BY start", start, neighbours)
        return to_passage(ranked, content, before[::-1], after)

    def _neighbours(self, document: int, condition: str, start: int, count: int) -> tuple[Neighbour, ...]:
        if not count:
            return ()
        rows = self.reader.execute(
            f"SELECT text, start, end FROM chunks WHERE document = ? AND {condition} LIMIT ?", (document, start, count)
        )
        return tuple(Neighbour(*row) for row in rows)


def read_all_chunks(connection: sqlite3.Connection) -> Iterator[IndexedChunks]:
    """Yields all chunks of a collection in batches of up to `ROWS_PER_BATCH`, ascending by id.

    `connection` must be in a transaction, because without one the metadata may be newer than the chunks.
    """
    cursor = connection.execute(f"{_SELECT_CHUNKS} ORDER BY id")
    while rows := cursor.fetchmany(ROWS_PER_BATCH):
        yield _to_indexed_chunks(connection, rows)


def read_chunks(connection: sqlite3.Connection, ids: Ids, dimensions: int) -> IndexedChunks:
    """Returns the chunks with these ids, ascending by id; all must exist.

    `dimensions`, the number of dimensions of a vector, is used only if `ids` is empty, for the shape of `vectors`.
    """
    rows = connection.execute(
        f"{_SELECT_CHUNKS} WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id", (json.dumps(ids.tolist()),)
    ).fetchall()
    if not rows:
        no_ids = np.empty(0, np.int64)
        return IndexedChunks(no_ids, no_ids, (), (), np.empty((0, dimensions), np.float32))
    return _to_indexed_chunks(connection, rows)


def _to_indexed_chunks(connection: sqlite3.Connection, rows: list[tuple[int, int, str, str, bytes]]) -> IndexedChunks:
    documents = [row[1] for row in rows]
    metadata: dict[int, dict[str, str]] = {document: {} for document in documents}
    found = connection.execute(
        "SELECT document, key, value FROM metadata WHERE document IN (SELECT value FROM json_each(?))",
        (json.dumps(list(metadata)),),
    )
    for document, key, value in found:
        metadata[document][key] = value
    return IndexedChunks(
        ids=np.array([row[0] for row in rows], np.int64),
        documents=np.array(documents, np.int64),
        texts=tuple(Chunk(text, 0, 0, context).embedded_text for _, _, context, text, _ in rows),
        metadata=tuple(metadata[document] for document in documents),
        vectors=np.frombuffer(b"".join(row[4] for row in rows), "<f4").reshape(len(rows), -1).astype(np.float32),
    )
