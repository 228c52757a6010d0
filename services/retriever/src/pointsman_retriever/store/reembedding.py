"""A collection's migration to another embedding model: new chunks gather beside the old, then take their place."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionInfo, Document, EncodedDocument
from pointsman_retriever.store.change import write_counts
from pointsman_retriever.store.sqlite import Store

_PENDING = "FROM documents WHERE NOT EXISTS (SELECT 1 FROM next_chunks WHERE next_chunks.document = documents.row)"


@dataclass(frozen=True, slots=True)
class PendingDocument:
    """A document that has no chunks by the new model yet."""

    row: int
    document: Document
    recipe: str


def begin_migration(store: Store, fingerprint: str, dimensions: int) -> None:
    """Goes on where an interrupted migration to the same model stopped."""
    with store.connections.transaction() as writer:
        there = writer.execute("SELECT fingerprint, dimensions FROM next_model").fetchone()
        if there != (fingerprint, dimensions):
            writer.execute("DELETE FROM next_chunks")
            writer.execute("INSERT OR REPLACE INTO next_model VALUES (1, ?, ?)", (fingerprint, dimensions))
        writer.execute("COMMIT")


def find_pending(store: Store, count: int) -> list[PendingDocument]:
    """At most `count` of them."""
    with store.connections.reading() as reader:
        rows = reader.execute(f"SELECT row, id, title, text, recipe {_PENDING} ORDER BY row LIMIT ?", (count,))
        found = rows.fetchall()
    return [
        PendingDocument(row, Document(document_id, title, text), recipe)
        for row, document_id, title, text, recipe in found
    ]


def count_pending(store: Store) -> int:
    with store.connections.reading() as reader:
        (count,) = reader.execute(f"SELECT count(*) {_PENDING}").fetchone()
    return int(count)


def store_migrated(store: Store, made: Sequence[tuple[PendingDocument, EncodedDocument]]) -> None:
    """A document that has been deleted meanwhile is passed over."""
    with store.connections.transaction() as writer:
        for find_pending, document in made:
            if writer.execute("SELECT 1 FROM documents WHERE row = ?", (find_pending.row,)).fetchone() is None:
                continue
            for chunk, vector in zip(document.chunks, document.vectors, strict=True):
                encoded = vector.astype("<f4").tobytes()
                digest = digests.hash_chunk(chunk.in_context, encoded)
                values = (find_pending.row, chunk.start, chunk.end, chunk.context, chunk.text, encoded, digest)
                writer.execute("INSERT INTO next_chunks VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        writer.execute("COMMIT")


def swap_if_complete(writer: sqlite3.Connection, before: CollectionInfo) -> CollectionInfo | None:
    """Puts the new chunks in the old ones' place, inside the caller's transaction; None where some are missing."""
    if writer.execute(f"SELECT 1 {_PENDING} LIMIT 1").fetchone() is not None:
        return None
    fingerprint, dimensions = writer.execute("SELECT fingerprint, dimensions FROM next_model").fetchone()
    # A document's size is that of its texts and its vectors.
    writer.execute(
        "UPDATE documents SET bytes = bytes + 4 * (? * (SELECT count(*) FROM next_chunks WHERE document = row) "
        "- ? * (SELECT count(*) FROM chunks WHERE document = row))",
        (dimensions, before.dimensions),
    )
    writer.execute("DELETE FROM chunks")
    writer.execute(
        "INSERT INTO chunks (document, start, end, context, text, vector, digest) "
        "SELECT document, start, end, context, text, vector, digest FROM next_chunks ORDER BY document, start"
    )
    writer.execute("DELETE FROM next_chunks")
    writer.execute("DELETE FROM next_model")
    return _recount(writer, replace(before, fingerprint=fingerprint, dimensions=dimensions, version=before.version + 1))


def _recount(writer: sqlite3.Connection, after: CollectionInfo) -> CollectionInfo:
    checksum, chunks = 0, 0
    for chunk_id, vector in writer.execute("SELECT id, vector FROM chunks"):
        checksum ^= digests.checksum_vectors(
            np.array([chunk_id], np.int64), np.frombuffer(vector, "<f4").reshape(1, -1)
        )
        chunks += 1
    (size,) = writer.execute("SELECT coalesce(sum(bytes), 0) FROM documents").fetchone()
    counted = replace(after, chunks=chunks, checksum=checksum, bytes=size)
    write_counts(writer, counted)
    return counted
