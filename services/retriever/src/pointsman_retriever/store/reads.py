"""Reads from a collection's file: passages for searches, and the columns that the in-memory indexes are built from."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pointsman_retriever.domain import Chunk, Ids, IndexedChunks, Neighbour, Passage, RankedChunk

_ROWS_PER_BATCH = 4096
_SELECT_CHUNKS = "SELECT id, document, context, text, vector FROM chunks"
_SELECT_PASSAGES = """
    SELECT json_group_array(json_array(
        chunks.id, row, documents.id, title, chunks.text, start, end,
        json((SELECT json_group_object(key, value) FROM metadata WHERE document = row))
    ))
    FROM chunks JOIN documents ON document = row WHERE chunks.id IN (SELECT value FROM json_each(?))
"""


@dataclass(frozen=True, slots=True)
class ReadTransaction:
    """One version of the collection, valid until the transaction ends."""

    reader: sqlite3.Connection
    version: int

    def passages(self, ranked: Sequence[RankedChunk], neighbours: int) -> tuple[Passage, ...]:
        """Returns the passages in the order of `ranked`, which must come from the snapshot of this version.

        All passages come in one row of JSON: SQLite releases the GIL after each row, and a busy interpreter makes the
        search wait to get it back.
        """
        (found,) = self.reader.execute(_SELECT_PASSAGES, (json.dumps([one.chunk for one in ranked]),)).fetchone()
        rows = {chunk: row for chunk, *row in json.loads(found)}
        return tuple(self._passage(one, rows[one.chunk], neighbours) for one in ranked)

    def _passage(self, ranked: RankedChunk, row: list[Any], neighbours: int) -> Passage:
        document, document_id, title, text, start, end, metadata = row
        return Passage(
            document_id=document_id,
            title=title,
            text=text,
            start=start,
            end=end,
            metadata=metadata,
            score=ranked.score,
            dense_score=ranked.dense,
            sparse_score=ranked.sparse,
            explanation=ranked.explanation,
            before=self._neighbours(document, "start < ? ORDER BY start DESC", start, neighbours)[::-1],
            after=self._neighbours(document, "start > ? ORDER BY start", start, neighbours),
        )

    def _neighbours(self, document: int, condition: str, start: int, count: int) -> tuple[Neighbour, ...]:
        if not count:
            return ()
        rows = self.reader.execute(
            f"SELECT text, start, end FROM chunks WHERE document = ? AND {condition} LIMIT ?", (document, start, count)
        )
        return tuple(Neighbour(*row) for row in rows)


def read_all_chunks(connection: sqlite3.Connection) -> Iterator[IndexedChunks]:
    """Yields all chunks in batches, ascending by id."""
    cursor = connection.execute(f"{_SELECT_CHUNKS} ORDER BY id")
    while rows := cursor.fetchmany(_ROWS_PER_BATCH):
        yield _to_indexed_chunks(connection, rows)


def read_chunks(connection: sqlite3.Connection, ids: Ids, dimensions: int) -> IndexedChunks:
    """Returns the chunks with these ids, ascending; they must exist."""
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
