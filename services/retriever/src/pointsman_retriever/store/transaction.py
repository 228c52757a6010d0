"""Changes a collection's file in transactions that keep the tables consistent with the collection's counts."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from pointsman_servicekit.errors import ResourceExhausted

from pointsman_retriever import digests
from pointsman_retriever.domain import Chunk, ChunkDelta, CollectionInfo, EncodedDocument, IndexedChunks, Quota, Vectors
from pointsman_retriever.store import connections


@dataclass(frozen=True, slots=True)
class StoredDocument:
    row: int
    digest: bytes
    recipe: str
    source: str
    bytes: int
    metadata: dict[str, str]


class Transaction:
    """Changes of several callers that are committed together; each change is applied completely or not at all.

    `Store.transaction` makes it. Use `step` for each caller's change, then call `finish` and `commit`.
    """

    def __init__(self, connection: sqlite3.Connection, before: CollectionInfo) -> None:
        self.info = before  # the state after the steps so far
        self._connection = connection
        self._removed: dict[int, bytes] = {}  # vectors by chunk id
        self._added: dict[int, bytes] = {}

    @contextmanager
    def step(self) -> Iterator["Change"]:
        """Yields a `Change`, with which the block makes one caller's changes.

        If the block raises, its changes are rolled back. If its changes grow the collection above its quota, they are
        rolled back, and the context manager raises ResourceExhausted ("quota_exceeded").
        """
        self._connection.execute("SAVEPOINT step")
        change = Change(self._connection, self.info)
        try:
            yield change
            after = change.info_after()
            _check_quota(self.info, after)
        except BaseException:
            if self._connection.in_transaction:  # a full disk has already rolled back the whole transaction
                self._connection.execute("ROLLBACK TO step")
                self._connection.execute("RELEASE step")
            raise
        self._connection.execute("RELEASE step")
        self.info = after
        for chunk, vector in change.removed.items():
            if self._added.pop(chunk, None) is None:  # otherwise an earlier step of this transaction added it
                self._removed[chunk] = vector
        self._added.update(change.added)

    @property
    def delta(self) -> ChunkDelta:
        added = np.array(list(self._added), np.int64)
        return ChunkDelta(
            np.array(sorted(self._removed), np.int64),
            connections.read_chunks(self._connection, added, self.info.dimensions),
        )

    def read_all_chunks(self) -> Iterator[IndexedChunks]:
        """Yields all chunks of the collection in batches, ascending by id. Changes that this transaction has made are
        included.
        """
        return connections.read_all_chunks(self._connection)

    def finish(self) -> None:
        """Updates the checksum in `info` with the changes of all steps; to be called once, after the last step."""
        self.info = replace(
            self.info,
            checksum=self.info.checksum ^ _checksum(self._removed) ^ _checksum(self._added),
        )

    def commit(self) -> CollectionInfo:
        """Writes the counts and commits all changes, which are then on disk; returns the resulting state."""
        write_counts(self._connection, self.info)
        self._connection.execute("COMMIT")
        return self.info


class Change:
    """One caller's change of a collection, within a transaction."""

    def __init__(self, connection: sqlite3.Connection, before: CollectionInfo) -> None:
        self.before = before
        self.removed: dict[int, bytes] = {}  # vectors by chunk id
        self.added: dict[int, bytes] = {}
        self.unchanged = 0  # documents that were stored with equal content already
        self._connection = connection
        self._documents = 0  # net growth
        self._bytes = 0  # net growth
        self._has_changes = False

    def put(self, encoded: EncodedDocument) -> int:
        """Adds a document, or replaces the stored one with the same id; returns the number of new chunks.

        If the document is already stored with the same title, text, metadata, recipe (its chunker) and vectors, only
        its source is updated. If it differs but has the same metadata, chunks with the same `embedded_text` and vector
        keep their ids. If its metadata differs, all chunks are new.
        """
        digest = digests.hash_document(encoded.document.title, encoded.document.text, encoded.document.metadata)
        stored = self._find(encoded.document.id)
        is_equal = stored is not None and (stored.digest, stored.recipe) == (digest, encoded.recipe)
        if stored is not None and is_equal and self._has_vectors(stored.row, encoded):
            self.unchanged += not self._set_source(stored, encoded.source)
            return 0
        self._has_changes = True
        # The metadata index copies a document's metadata for each chunk: with new metadata, all chunks are new too.
        has_same_metadata = stored is not None and stored.metadata == dict(encoded.document.metadata)
        row = self._put_document(stored, encoded, digest)
        if not has_same_metadata:
            self._put_metadata(row, encoded.document.metadata)
        if stored is None:
            return self._add_chunks(row, encoded)
        return self._replace_chunks(row, encoded, keep_equal=has_same_metadata)

    def remove(self, document_id: str) -> bool:
        """Removes a document; returns whether it existed."""
        stored = self._find(document_id)
        if stored is None:
            return False
        self._remove_chunks(self._chunks_of(stored.row))
        self._connection.execute("DELETE FROM documents WHERE row = ?", (stored.row,))
        self._bytes -= stored.bytes
        self._documents -= 1
        self._has_changes = True
        return True

    def info_after(self) -> CollectionInfo:
        """Returns the collection's state after this change. Its `checksum` is not updated yet; `Transaction.finish`
        does this.

        The version is one higher if the change has changed more than the source of a document.
        """
        return replace(
            self.before,
            documents=self.before.documents + self._documents,
            chunks=self.before.chunks + len(self.added) - len(self.removed),
            bytes=self.before.bytes + self._bytes,
            version=self.before.version + self._has_changes,
        )

    def _find(self, document_id: str) -> StoredDocument | None:
        # The query returns a single row: SQLite releases the GIL after each row, and running searches take it.
        found = self._connection.execute(
            "SELECT row, digest, recipe, source, bytes, "
            "(SELECT json_group_object(key, value) FROM metadata WHERE document = row) FROM documents WHERE id = ?",
            (document_id,),
        ).fetchone()
        if found is None:
            return None
        row, digest, recipe, source, size, metadata = found
        return StoredDocument(row, digest, recipe, source, size, json.loads(metadata))

    def _has_vectors(self, row: int, encoded: EncodedDocument) -> bool:
        """Returns whether the stored vectors are equal; a caller may have sent other vectors for the same text."""
        stored = self._connection.execute("SELECT vector FROM chunks WHERE document = ? ORDER BY start, id", (row,))
        return [vector for (vector,) in stored] == [_encode_vector(vector) for vector in encoded.vectors]

    def _set_source(self, stored: StoredDocument, source: str) -> bool:
        """Records the source that a document belongs to; returns whether it belonged to another one before."""
        if stored.source == source:
            return False
        self._connection.execute("UPDATE documents SET source = ? WHERE row = ?", (source, stored.row))
        return True

    def _put_document(self, stored: StoredDocument | None, encoded: EncodedDocument, digest: bytes) -> int:
        document = encoded.document
        size = encoded.bytes
        values = (document.title, document.text, digest, encoded.recipe, size, encoded.source)
        if stored is None:
            row = self._connection.execute(
                "INSERT INTO documents (title, text, digest, recipe, bytes, source, id) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, document.id),
            ).lastrowid
            assert row is not None  # an INSERT always has one
            self._documents += 1
        else:
            row = stored.row
            self._connection.execute(
                "UPDATE documents SET title = ?, text = ?, digest = ?, recipe = ?, bytes = ?, source = ? WHERE row = ?",
                (*values, row),
            )
            self._bytes -= stored.bytes
        self._bytes += size
        return row

    def _put_metadata(self, row: int, metadata: Mapping[str, str]) -> None:
        self._connection.execute("DELETE FROM metadata WHERE document = ?", (row,))
        self._connection.executemany(
            "INSERT INTO metadata (document, key, value) VALUES (?, ?, ?)",
            [(row, key, value) for key, value in metadata.items()],
        )

    def _replace_chunks(self, row: int, encoded: EncodedDocument, keep_equal: bool) -> int:
        """Replaces a document's chunks; returns how many are new. `keep_equal` keeps chunks with equal hashes."""
        stored = self._chunks_of(row)
        ids_by_digest: dict[bytes, list[int]] = {}
        for chunk_id, (digest, _) in stored.items() if keep_equal else ():
            ids_by_digest.setdefault(digest, []).append(chunk_id)
        kept: list[tuple[int, int, str, str, int]] = []
        new: list[tuple[Chunk, bytes, bytes]] = []
        for chunk, vector in zip(encoded.chunks, map(_encode_vector, encoded.vectors), strict=True):
            digest = digests.hash_chunk(chunk.embedded_text, vector)
            if equal := ids_by_digest.get(digest):
                kept.append((chunk.start, chunk.end, chunk.context, chunk.text, equal.pop()))
            else:
                new.append((chunk, vector, digest))
        for *_, chunk_id in kept:
            del stored[chunk_id]
        self._remove_chunks(stored)
        self._connection.executemany("UPDATE chunks SET start = ?, end = ?, context = ?, text = ? WHERE id = ?", kept)
        for one in new:
            self._add_chunk(row, *one)
        return len(new)

    def _add_chunks(self, row: int, encoded: EncodedDocument) -> int:
        for chunk, vector in zip(encoded.chunks, map(_encode_vector, encoded.vectors), strict=True):
            self._add_chunk(row, chunk, vector, digests.hash_chunk(chunk.embedded_text, vector))
        return len(encoded.chunks)

    def _chunks_of(self, row: int) -> dict[int, tuple[bytes, bytes]]:
        """Returns digest and vector of a document's chunks by chunk id, the last chunk first."""
        found = self._connection.execute(
            "SELECT id, digest, vector FROM chunks WHERE document = ? ORDER BY id DESC", (row,)
        )
        return {chunk_id: (digest, vector) for chunk_id, digest, vector in found}

    def _add_chunk(self, row: int, chunk: Chunk, vector: bytes, digest: bytes) -> None:
        chunk_id = self._connection.execute(
            "INSERT INTO chunks (document, start, end, context, text, vector, digest) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row, chunk.start, chunk.end, chunk.context, chunk.text, vector, digest),
        ).lastrowid
        assert chunk_id is not None  # an INSERT always has one
        self.added[chunk_id] = vector

    def _remove_chunks(self, chunks: Mapping[int, tuple[bytes, bytes]]) -> None:
        """Removes chunks, given as digests and vectors by id."""
        self._connection.executemany("DELETE FROM chunks WHERE id = ?", [(chunk_id,) for chunk_id in chunks])
        self.removed.update((chunk_id, vector) for chunk_id, (_, vector) in chunks.items())


def write_counts(connection: sqlite3.Connection, info: CollectionInfo) -> None:
    connection.execute(
        "UPDATE collection SET fingerprint = ?, dimensions = ?, documents = ?, chunks = ?, bytes = ?, version = ?, "
        "checksum = ?",
        (
            info.fingerprint,
            info.dimensions,
            info.documents,
            info.chunks,
            info.bytes,
            info.version,
            f"{info.checksum:016x}",
        ),
    )


def _check_quota(before: CollectionInfo, after: CollectionInfo) -> None:
    """Raises ResourceExhausted ("quota_exceeded") if a change grows the collection above its quota.

    A collection that is above its quota already may shrink.
    """
    for what in Quota.__dataclass_fields__:
        limit, old, new = getattr(after.quota, what), getattr(before, what), getattr(after, what)
        if limit and new > limit and new > old:
            raise ResourceExhausted(
                f"collection {str(after.id)!r} would have {new:,} {what}, and its quota is {limit:,}; delete "
                "documents, or have the quota raised",
                code="quota_exceeded",
                param=what,
            )


def _encode_vector(vector: Vectors) -> bytes:
    return vector.astype("<f4").tobytes()


def _checksum(chunks: Mapping[int, bytes]) -> int:
    if not chunks:
        return 0
    vectors = np.frombuffer(b"".join(chunks.values()), "<f4").reshape(len(chunks), -1)
    return digests.checksum_vectors(np.fromiter(chunks, np.int64, len(chunks)), vectors)
