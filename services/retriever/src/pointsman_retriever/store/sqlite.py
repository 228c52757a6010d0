"""The store: collections, documents, chunks and vectors in one SQLite file."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from pointsman_servicekit.errors import NotFound

from pointsman_retriever.domain import Collection, Ids, Passage, Ranked, Vectors
from pointsman_retriever.store import schema
from pointsman_retriever.store.change import Change
from pointsman_retriever.store.connections import Connections

_COLLECTION = "name, fingerprint, dimensions, documents, chunks, version"
_ROWS_AT_ONCE = 4096
_HAS_ENTRY = "EXISTS (SELECT 1 FROM metadata WHERE document = chunks.document AND key = ? AND value = ?)"


class Store:
    """Reads from any thread; changes (create, drop, changing) from one thread at a time."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collections(self) -> list[tuple[int, Collection]]:
        """Each with its number, which stays its own and is not given again."""
        with self._connections.reading() as reader:
            rows = reader.execute(f"SELECT id, {_COLLECTION} FROM collections ORDER BY name").fetchall()
        return [(row[0], Collection(*row[1:])) for row in rows]

    def create(self, collection: Collection) -> int:
        """Returns its number; the name must be free."""
        with self._connections.transaction() as writer:
            number = writer.execute(
                "INSERT INTO collections (name, fingerprint, dimensions) VALUES (?, ?, ?)",
                (collection.name, collection.fingerprint, collection.dimensions),
            ).lastrowid
            assert number is not None  # an INSERT has one
            schema.make_words(writer, number)
            writer.execute("COMMIT")
        return number

    def drop(self, number: int) -> None:
        with self._connections.transaction() as writer:
            schema.drop_words(writer, number)
            writer.execute("DELETE FROM collections WHERE id = ?", (number,))
            writer.execute("COMMIT")

    @contextmanager
    def changing(self, number: int) -> Iterator[Change]:
        """Raises NotFound where the collection has been dropped."""
        with self._connections.transaction() as writer:
            row = writer.execute(f"SELECT {_COLLECTION} FROM collections WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise NotFound("the collection was deleted meanwhile", code="unknown_collection", param="collection")
            yield Change(writer, number, Collection(*row))

    def vectors(self, number: int, dimensions: int) -> Iterator[tuple[Ids, Vectors]]:
        """All vectors of a collection, in batches of (n,) and (n, dimensions)."""
        with self._connections.reading() as reader:
            cursor = reader.execute(
                "SELECT chunks.id, vector FROM chunks JOIN documents ON document = row WHERE collection = ?", (number,)
            )
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                joined = b"".join(vector for _, vector in rows)
                ids = np.array([chunk for chunk, _ in rows], np.int64)
                yield ids, np.frombuffer(joined, "<f4").reshape(-1, dimensions)

    def having(self, number: int, metadata: Mapping[str, str]) -> Ids:
        """The chunks of the documents that have all of these entries."""
        entries = " AND ".join([_HAS_ENTRY] * len(metadata))
        with self._connections.reading() as reader:
            rows = reader.execute(
                f"SELECT chunks.id FROM documents JOIN chunks ON document = row WHERE collection = ? AND {entries}",
                (number, *_flat(metadata)),
            ).fetchall()
        return np.array([chunk for (chunk,) in rows], np.int64)

    def by_words(self, number: int, match: str, metadata: Mapping[str, str], count: int) -> dict[int, float]:
        """BM25 (greater is better) of the best `count` chunks for an FTS5 expression, under the metadata filter."""
        words = schema.words_table(number)
        filtered = f"CROSS JOIN chunks ON chunks.id = {words}.rowid" if metadata else ""  # CROSS: match the words first
        entries = "".join(f" AND {_HAS_ENTRY}" for _ in metadata)
        with self._connections.reading() as reader:
            rows = reader.execute(
                f"SELECT {words}.rowid, -bm25({words}) AS score FROM {words} {filtered} "
                f"WHERE {words} MATCH ?{entries} ORDER BY score DESC LIMIT ?",
                (match, *_flat(metadata), count),
            ).fetchall()
        return dict(rows)

    def passages(self, ranked: Sequence[Ranked]) -> tuple[Passage, ...]:
        """In the same order; the chunks must be there."""
        with self._connections.reading() as reader:
            return tuple(_passage(reader, one) for one in ranked)


def _passage(reader: sqlite3.Connection, ranked: Ranked) -> Passage:
    row, document_id, title, text, start, end = reader.execute(
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
        metadata=dict(reader.execute("SELECT key, value FROM metadata WHERE document = ?", (row,))),
        score=ranked.score,
        dense_score=ranked.dense,
        sparse_score=ranked.sparse,
    )


def _flat(metadata: Mapping[str, str]) -> list[str]:
    return [part for entry in metadata.items() for part in entry]
