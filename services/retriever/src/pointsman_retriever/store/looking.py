"""What a search reads of a collection's file, and what is held in memory of it."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pointsman_retriever.domain import Chunk, Entries, Ids, Neighbour, Passage, Ranked

_ROWS_AT_ONCE = 4096
_ENTRY = "SELECT id, document, context, text, vector FROM chunks"


@dataclass(frozen=True, slots=True)
class Look:
    """The collection as it is at one moment, for as long as the look lasts."""

    reader: sqlite3.Connection
    version: int

    def passage(self, ranked: Ranked, neighbours: int) -> Passage:
        """The chunk must be there, as it is where `ranked` is of this version."""
        row, document_id, title, text, start, end = self.reader.execute(
            "SELECT row, documents.id, title, chunks.text, start, end "
            "FROM chunks JOIN documents ON document = row WHERE chunks.id = ?",
            (ranked.chunk,),
        ).fetchone()
        return Passage(
            document_id=document_id,
            title=title,
            text=text,
            start=start,
            end=end,
            metadata=self._metadata(row),
            score=ranked.score,
            dense_score=ranked.dense,
            sparse_score=ranked.sparse,
            explanation=ranked.explanation,
            before=self._beside(row, "start < ? ORDER BY start DESC", start, neighbours)[::-1],
            after=self._beside(row, "start > ? ORDER BY start", start, neighbours),
        )

    def _metadata(self, row: int) -> Mapping[str, str]:
        return dict(self.reader.execute("SELECT key, value FROM metadata WHERE document = ?", (row,)))

    def _beside(self, row: int, where: str, start: int, count: int) -> tuple[Neighbour, ...]:
        if not count:
            return ()
        rows = self.reader.execute(
            f"SELECT text, start, end FROM chunks WHERE document = ? AND {where} LIMIT ?", (row, start, count)
        )
        return tuple(Neighbour(*found) for found in rows)


def entries(connection: sqlite3.Connection) -> Iterator[Entries]:
    """Of all chunks, ascending, in batches."""
    cursor = connection.execute(f"{_ENTRY} ORDER BY id")
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield _entries(connection, rows)


def entries_of(connection: sqlite3.Connection, ids: Ids, dimensions: int) -> Entries:
    """Of these chunks, which must be there."""
    rows = [connection.execute(f"{_ENTRY} WHERE id = ?", (chunk,)).fetchone() for chunk in sorted(ids.tolist())]
    if not rows:
        nothing = np.empty(0, np.int64)
        return Entries(nothing, nothing, (), (), np.empty((0, dimensions), np.float32))
    return _entries(connection, rows)


def _entries(connection: sqlite3.Connection, rows: list[tuple[int, int, str, str, bytes]]) -> Entries:
    metadata: dict[int, dict[str, str]] = {}
    for _, document, *_ in rows:
        if document not in metadata:
            metadata[document] = dict(
                connection.execute("SELECT key, value FROM metadata WHERE document = ?", (document,))
            )
    return Entries(
        ids=np.array([row[0] for row in rows], np.int64),
        documents=np.array([row[1] for row in rows], np.int64),
        texts=tuple(Chunk(text, 0, 0, context).in_context for _, _, context, text, _ in rows),
        metadata=tuple(metadata[row[1]] for row in rows),
        vectors=np.frombuffer(b"".join(row[4] for row in rows), "<f4").reshape(len(rows), -1).astype(np.float32),
    )
