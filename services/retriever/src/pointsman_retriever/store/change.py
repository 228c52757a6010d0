"""Changes of a collection: a transaction in which the tables and the counts move together."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from pointsman_servicekit.errors import ResourceExhausted

from pointsman_retriever import digests
from pointsman_retriever.domain import Chunk, ChunkDelta, CollectionInfo, EncodedDocument, IndexedChunks, Quota, Vectors
from pointsman_retriever.store import looking


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What the collection has of a document already."""

    row: int
    digest: bytes
    recipe: str
    source: str
    bytes: int
    metadata: dict[str, str]


class Transaction:
    """Made by `Store.changing`: several callers' steps, each whole or not at all, committed together."""

    def __init__(self, connection: sqlite3.Connection, before: CollectionInfo) -> None:
        self.collection = before  # as the steps have left it
        self._connection = connection
        self._removed: dict[int, bytes] = {}  # chunks with their vectors
        self._added: dict[int, bytes] = {}

    @contextmanager
    def step(self) -> Iterator["Change"]:
        """Nothing of a step that raises is kept; the others stay."""
        self._connection.execute("SAVEPOINT step")
        change = Change(self._connection, self.collection)
        try:
            yield change
            after = change.after()
            _check_quota(self.collection, after)
        except BaseException:
            if self._connection.in_transaction:  # a full disk has rolled back everything already
                self._connection.execute("ROLLBACK TO step")
                self._connection.execute("RELEASE step")
            raise
        self._connection.execute("RELEASE step")
        self.collection = after
        for chunk, vector in change.removed.items():  # perhaps one that an earlier step has added
            if self._added.pop(chunk, None) is None:
                self._removed[chunk] = vector
        self._added.update(change.added)

    @property
    def delta(self) -> ChunkDelta:
        return ChunkDelta(
            np.array(sorted(self._removed), np.int64),
            looking.read_chunks(self._connection, np.array(list(self._added), np.int64), self.collection.dimensions),
        )

    def entries(self) -> Iterator[IndexedChunks]:
        """Of all chunks, as the steps have left them."""
        return looking.read_all_chunks(self._connection)

    def close(self) -> None:
        """After the last step: the checksum of all vectors follows, for all steps in one go."""
        self.collection = replace(
            self.collection,
            checksum=self.collection.checksum ^ _checksum(self._removed) ^ _checksum(self._added),
        )

    def commit(self) -> CollectionInfo:
        """Puts everything on the disk, and returns the collection after it."""
        write_counts(self._connection, self.collection)
        self._connection.execute("COMMIT")
        return self.collection


class Change:
    """One caller's step."""

    def __init__(self, connection: sqlite3.Connection, before: CollectionInfo) -> None:
        self.removed: dict[int, bytes] = {}  # chunks with their vectors
        self.added: dict[int, bytes] = {}
        self.documents = 0  # by how many the collection has grown
        self.changed = 0  # documents that were written or removed
        self.unchanged = 0  # documents that were there just so
        self._connection = connection
        self.before = before
        self._bytes = 0

    def put(self, made: EncodedDocument) -> int:
        """Adds a document, in the place of the one with its id; returns how many chunks are new.

        What the collection has already stays: the whole row of an equal document, and the chunks with equal text.
        """
        digest = digests.hash_document(made.document.title, made.document.text, made.document.metadata)
        there = self._find(made.document.id)
        if there is not None and (there.digest, there.recipe) == (digest, made.recipe) and self._holds(there.row, made):
            self.unchanged += not self._adopt(there, made.source)
            return 0
        self.changed += 1
        # Who holds a copy of a chunk holds its metadata too: where they change, the chunk is another.
        keeps = there is not None and there.metadata == dict(made.document.metadata)
        row = self._put_document(there, made, digest)
        if not keeps:
            self._put_metadata(row, made.document.metadata)
        return self._put_chunks(row, made, keeps) if there is not None else self._add_chunks(row, made)

    def remove(self, document_id: str) -> bool:
        """Whether the document was there."""
        there = self._find(document_id)
        if there is None:
            return False
        self._remove_chunks(self._chunks_of(there.row))
        self._connection.execute("DELETE FROM documents WHERE row = ?", (there.row,))
        self._bytes -= there.bytes
        self.documents -= 1
        self.changed += 1
        return True

    def after(self) -> CollectionInfo:
        """All but the checksum. The version counts up only where something has changed."""
        return replace(
            self.before,
            documents=self.before.documents + self.documents,
            chunks=self.before.chunks + len(self.added) - len(self.removed),
            bytes=self.before.bytes + self._bytes,
            version=self.before.version + bool(self.changed),
        )

    def _find(self, document_id: str) -> StoredDocument | None:
        """In one row: SQLite gives the interpreter away at each, and those who search take it."""
        found = self._connection.execute(
            "SELECT row, digest, recipe, source, bytes, "
            "(SELECT json_group_object(key, value) FROM metadata WHERE document = row) FROM documents WHERE id = ?",
            (document_id,),
        ).fetchone()
        if found is None:
            return None
        row, digest, recipe, source, size, metadata = found
        return StoredDocument(row, digest, recipe, source, size, json.loads(metadata))

    def _holds(self, row: int, made: EncodedDocument) -> bool:
        """Whether a document of equal text has equal vectors too; a caller's own vector may be another."""
        held = self._connection.execute("SELECT vector FROM chunks WHERE document = ? ORDER BY start, id", (row,))
        return [vector for (vector,) in held] == [_encode_vector(vector) for vector in made.vectors]

    def _adopt(self, there: StoredDocument, source: str) -> bool:
        """Whether it was of another source."""
        if there.source == source:
            return False
        self._connection.execute("UPDATE documents SET source = ? WHERE row = ?", (source, there.row))
        return True

    def _put_document(self, there: StoredDocument | None, made: EncodedDocument, digest: bytes) -> int:
        document = made.document
        size = made.bytes
        values = (document.title, document.text, digest, made.recipe, size, made.source)
        if there is None:
            row = self._connection.execute(
                "INSERT INTO documents (title, text, digest, recipe, bytes, source, id) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, document.id),
            ).lastrowid
            assert row is not None  # an INSERT has one
            self.documents += 1
        else:
            row = there.row
            self._connection.execute(
                "UPDATE documents SET title = ?, text = ?, digest = ?, recipe = ?, bytes = ?, source = ? WHERE row = ?",
                (*values, row),
            )
            self._bytes -= there.bytes
        self._bytes += size
        return row

    def _put_metadata(self, row: int, metadata: Mapping[str, str]) -> None:
        self._connection.execute("DELETE FROM metadata WHERE document = ?", (row,))
        self._connection.executemany(
            "INSERT INTO metadata (document, key, value) VALUES (?, ?, ?)",
            [(row, key, value) for key, value in metadata.items()],
        )

    def _put_chunks(self, row: int, made: EncodedDocument, keeps: bool) -> int:
        """Returns how many are new; where the text that is searched and the vector are equal, the old chunk stays."""
        there = self._chunks_of(row)
        held: dict[bytes, list[int]] = {}
        for chunk_id, (digest, _) in there.items() if keeps else ():
            held.setdefault(digest, []).append(chunk_id)
        kept: list[tuple[int, int, str, str, int]] = []
        new: list[tuple[Chunk, bytes, bytes]] = []
        for chunk, vector in zip(made.chunks, map(_encode_vector, made.vectors), strict=True):
            digest = digests.hash_chunk(chunk.in_context, vector)
            if same := held.get(digest):
                kept.append((chunk.start, chunk.end, chunk.context, chunk.text, same.pop()))
            else:
                new.append((chunk, vector, digest))
        for *_, chunk_id in kept:
            del there[chunk_id]
        self._remove_chunks(there)
        self._connection.executemany("UPDATE chunks SET start = ?, end = ?, context = ?, text = ? WHERE id = ?", kept)
        for one in new:
            self._add_chunk(row, *one)
        return len(new)

    def _add_chunks(self, row: int, made: EncodedDocument) -> int:
        """Those of a document that was not there."""
        for chunk, vector in zip(made.chunks, map(_encode_vector, made.vectors), strict=True):
            self._add_chunk(row, chunk, vector, digests.hash_chunk(chunk.in_context, vector))
        return len(made.chunks)

    def _chunks_of(self, row: int) -> dict[int, tuple[bytes, bytes]]:
        """A document's, the last first, with their digests and vectors."""
        found = self._connection.execute(
            "SELECT id, digest, vector FROM chunks WHERE document = ? ORDER BY id DESC", (row,)
        )
        return {chunk_id: (digest, vector) for chunk_id, digest, vector in found}

    def _add_chunk(self, row: int, chunk: Chunk, vector: bytes, digest: bytes) -> None:
        chunk_id = self._connection.execute(
            "INSERT INTO chunks (document, start, end, context, text, vector, digest) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row, chunk.start, chunk.end, chunk.context, chunk.text, vector, digest),
        ).lastrowid
        assert chunk_id is not None  # an INSERT has one
        self.added[chunk_id] = vector

    def _remove_chunks(self, gone: Mapping[int, tuple[bytes, bytes]]) -> None:
        """`gone` are ids with their digests and vectors."""
        self._connection.executemany("DELETE FROM chunks WHERE id = ?", [(chunk_id,) for chunk_id in gone])
        self.removed.update((chunk_id, vector) for chunk_id, (_, vector) in gone.items())


def write_counts(connection: sqlite3.Connection, after: CollectionInfo) -> None:
    connection.execute(
        "UPDATE collection SET fingerprint = ?, dimensions = ?, documents = ?, chunks = ?, bytes = ?, version = ?, "
        "checksum = ?",
        (
            after.fingerprint,
            after.dimensions,
            after.documents,
            after.chunks,
            after.bytes,
            after.version,
            f"{after.checksum:016x}",
        ),
    )


def _check_quota(before: CollectionInfo, after: CollectionInfo) -> None:
    """Only what grows is refused: a collection over a quota that was lowered can still be made smaller."""
    for what in Quota.__dataclass_fields__:
        limit, had, has = getattr(after.quota, what), getattr(before, what), getattr(after, what)
        if limit and has > limit and has > had:
            raise ResourceExhausted(
                f"collection {str(after.id)!r} would have {has:,} {what}, and its quota is {limit:,}; delete some, or "
                "have the quota raised",
                code="quota_exceeded",
                param=what,
            )


def _encode_vector(vector: Vectors) -> bytes:
    return vector.astype("<f4").tobytes()


def _checksum(chunks: Mapping[int, bytes]) -> int:
    vectors = np.frombuffer(b"".join(chunks.values()), "<f4")
    return (
        digests.checksum_vectors(np.fromiter(chunks, np.int64, len(chunks)), vectors.reshape(len(chunks), -1))
        if chunks
        else 0
    )
