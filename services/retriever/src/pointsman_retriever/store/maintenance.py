"""Verifies a collection's file, copies it to a snapshot file, and migrates it to another embedding model."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from pointsman_servicekit.errors import Internal, InvalidArgument, PointsmanError

from pointsman_retriever import digests
from pointsman_retriever.domain import Chunk, CollectionId, CollectionInfo, Document, EncodedDocument, Quota
from pointsman_retriever.store.data_folder import STORE_FILE, sync_file, sync_folder
from pointsman_retriever.store.errors import translate_disk_errors, translate_errors
from pointsman_retriever.store.store import Store, read_collection
from pointsman_retriever.store.transaction import write_counts

MAX_PROBLEMS = 20
_MAX_NORM_ERROR = 1e-3
_SNAPSHOT_READERS = 2
# Errors of the file itself. All others are those of the disk or of this service.
_FILE_ERRORS = ("collection_damaged", "unknown_schema_version", "not_a_collection")
# Two numbers of formats in the header of a SQLite file: offset and highest value (sqlite.org/fileformat2.html).
_MAX_FORMATS = {18: 2, 47: 4}

_PENDING = "FROM documents WHERE NOT EXISTS (SELECT 1 FROM next_chunks WHERE next_chunks.document = documents.row)"


@dataclass(frozen=True, slots=True)
class Findings:
    info: CollectionInfo
    problems: tuple[str, ...]  # at most MAX_PROBLEMS; empty if everything agrees

    def with_problems(self, problems: list[str]) -> "Findings":
        return replace(self, problems=(*problems, *self.problems)[:MAX_PROBLEMS])


def quick_check(store: Store) -> None:
    """Checks the structure of the pages of a collection's file, by SQLite's `quick_check`.

    Raises Internal ("collection_damaged") if the pages are damaged, and storage errors (`translate_errors`).
    """
    with store.connections.reader() as reader:
        if found := _run_check(reader, "quick_check"):
            raise Internal(
                f"collection {str(store.id)!r} is damaged: {'; '.join(found)}; restore its last snapshot",
                code="collection_damaged",
            )


def check_all(store: Store) -> Findings:
    """Checks one version of a collection. Returns its state and the problems that were found, at most MAX_PROBLEMS.

    First SQLite's `integrity_check` checks the file. If it finds no problem, all rows are compared with their hashes
    and with the collection's counts and checksum. Raises storage errors (`translate_errors`), among them Internal
    ("collection_damaged") if damage keeps the file from being read.
    """
    with store.connections.reader() as reader:
        reader.execute("BEGIN")
        info = read_collection(reader, store.id)
        problems = list(islice(_find_problems(reader, info), MAX_PROBLEMS))
    return Findings(info, tuple(problems))


@dataclass(slots=True)
class _Counts:
    documents: int = 0
    bytes: int = 0
    chunks: int = 0
    checksum: int = 0


def _find_problems(reader: sqlite3.Connection, info: CollectionInfo) -> Iterator[str]:
    damage = _run_check(reader, "integrity_check")
    yield from damage
    if damage:
        return  # rows read from a damaged file prove nothing
    if orphans := reader.execute("PRAGMA foreign_key_check").fetchall():
        yield f"{len(orphans):,} rows belong to documents that do not exist"
    counts = _Counts()
    yield from _check_documents(reader, counts)
    yield from _check_chunks(reader, info, counts)
    for what in ("documents", "chunks", "bytes", "checksum"):
        recorded, actual = getattr(info, what), getattr(counts, what)
        if recorded != actual:
            yield f"the recorded {what} is {recorded}, and the rows give {actual}"


def _check_documents(reader: sqlite3.Connection, counts: _Counts) -> Iterator[str]:
    for row, document_id, title, text, digest, size in reader.execute(
        "SELECT row, id, title, text, digest, bytes FROM documents"
    ):
        counts.documents += 1
        counts.bytes += size
        metadata = dict(reader.execute("SELECT key, value FROM metadata WHERE document = ?", (row,)))
        if digests.hash_document(title, text, metadata) != digest:
            yield f"the content of document {document_id!r} does not match its hash"


def _check_chunks(reader: sqlite3.Connection, info: CollectionInfo, counts: _Counts) -> Iterator[str]:
    for chunk_id, document_id, document_text, start, end, context, text, vector, digest in reader.execute(
        "SELECT chunks.id, documents.id, documents.text, start, end, context, chunks.text, vector, chunks.digest "
        "FROM chunks JOIN documents ON document = row ORDER BY document, start"
    ):
        counts.chunks += 1
        where = f"chunk {chunk_id} of document {document_id!r}"
        if document_text[start:end] != text:
            yield f"{where} is not the document's text from {start} to {end}"
        if digests.hash_chunk(Chunk(text, start, end, context).embedded_text, vector) != digest:
            yield f"the text and the vector of {where} do not match their hash"
        if len(vector) != 4 * info.dimensions:
            yield f"the vector of {where} has {len(vector) // 4} values; the model's have {info.dimensions}"
            continue
        values = np.frombuffer(vector, "<f4").reshape(1, -1)
        if not abs(float(np.linalg.norm(values)) - 1.0) < _MAX_NORM_ERROR:
            yield f"the vector of {where} does not have length 1"
        counts.checksum ^= digests.checksum_vectors(np.array([chunk_id], np.int64), values)


def _run_check(reader: sqlite3.Connection, check: str) -> list[str]:
    rows = reader.execute(f"PRAGMA {check}({MAX_PROBLEMS})").fetchall()
    return [] if rows == [("ok",)] else [str(row[0]) for row in rows]


def copy_store(store: Store, target: Path) -> CollectionInfo:
    """Copies one version of a collection to the file `STORE_FILE` in the folder `target`; returns the copy's state.

    The store may be used during the copy. `target` is created if it is missing. Raises storage errors
    (`translate_errors`).
    """
    target.mkdir(exist_ok=True)
    file = target / STORE_FILE
    with store.connections.reader() as reader, closing(sqlite3.connect(file)) as copy, translate_errors(file):
        reader.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # makes the file complete without a log beside it
    sync_file(file)
    copied = Store(store.id, target, _SNAPSHOT_READERS)
    try:
        return copied.collection()
    finally:
        copied.close()


def accept_snapshot(collection_id: CollectionId, folder: Path, quota: Quota) -> CollectionInfo:
    """Checks all rows of the snapshot file in `folder`, and writes `quota` into the file; returns the file's state.

    Raises InvalidArgument ("snapshot_damaged") if the file is damaged, is not a collection's file or has another schema
    version, and storage errors (`translate_errors`) if this service or its disk fails.
    """
    _check_format(folder / STORE_FILE)
    try:
        store = Store(collection_id, folder, _SNAPSHOT_READERS)
        try:
            findings = check_all(store)
            if findings.problems:
                raise _damaged_snapshot("; ".join(findings.problems))
            return store.set_quota(quota)
        finally:
            store.close()
            sync_folder(folder)
    except PointsmanError as error:
        if error.code in _FILE_ERRORS:
            raise _damaged_snapshot(error.message) from error
        raise


def _check_format(file: Path) -> None:
    """Raises InvalidArgument for a format newer than `_MAX_FORMATS`, which SQLite would report as a read-only file."""
    with translate_disk_errors(file), file.open("rb") as opened:
        header = opened.read(max(_MAX_FORMATS) + 1)
    if any(header[offset : offset + 1] > bytes([highest]) for offset, highest in _MAX_FORMATS.items()):
        raise _damaged_snapshot("it is not a file that SQLite can write")


def _damaged_snapshot(reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"the snapshot cannot be restored: {reason}; nothing was changed", code="snapshot_damaged", param="snapshot"
    )


@dataclass(frozen=True, slots=True)
class PendingDocument:
    """A stored document that a migration to another embedding model has not encoded yet.

    `document` has id, title and text only; `row` is its row number, and `recipe` names its chunker and version.
    """

    row: int
    document: Document
    recipe: str


def begin_migration(store: Store, fingerprint: str, dimensions: int) -> None:
    """Starts the migration of a collection to another embedding model.

    If a migration to the same model was interrupted, it is resumed. Chunks that an interrupted migration to a different
    model has made are deleted. `fingerprint` and `dimensions` are those of the new model. Raises storage errors
    (`translate_errors`).
    """
    with store.connections.transaction() as writer:
        target = writer.execute("SELECT fingerprint, dimensions FROM next_model").fetchone()
        if target != (fingerprint, dimensions):
            writer.execute("DELETE FROM next_chunks")
            writer.execute("INSERT OR REPLACE INTO next_model VALUES (1, ?, ?)", (fingerprint, dimensions))
        writer.execute("COMMIT")


def find_pending(store: Store, count: int) -> list[PendingDocument]:
    """Returns at most `count` documents that the migration has not yet encoded, in the order of their rows."""
    with store.connections.reader() as reader:
        rows = reader.execute(
            f"SELECT row, id, title, text, recipe {_PENDING} ORDER BY row LIMIT ?", (count,)
        ).fetchall()
    return [
        PendingDocument(row, Document(document_id, title, text), recipe)
        for row, document_id, title, text, recipe in rows
    ]


def count_pending(store: Store) -> int:
    with store.connections.reader() as reader:
        (count,) = reader.execute(f"SELECT count(*) {_PENDING}").fetchone()
    return int(count)


def store_migrated(store: Store, documents: Sequence[tuple[PendingDocument, EncodedDocument]]) -> None:
    """Stores the chunks of documents that were encoded for the new embedding model.

    A document that was deleted since `find_pending` returned it is skipped. Raises storage errors (`translate_errors`).
    """
    with store.connections.transaction() as writer:
        for pending, encoded in documents:
            if writer.execute("SELECT 1 FROM documents WHERE row = ?", (pending.row,)).fetchone() is None:
                continue
            for chunk, vector in zip(encoded.chunks, encoded.vectors, strict=True):
                blob = vector.astype("<f4").tobytes()
                digest = digests.hash_chunk(chunk.embedded_text, blob)
                values = (pending.row, chunk.start, chunk.end, chunk.context, chunk.text, blob, digest)
                writer.execute("INSERT INTO next_chunks VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        writer.execute("COMMIT")


def swap_if_complete(writer: sqlite3.Connection, before: CollectionInfo) -> CollectionInfo | None:
    """Replaces all chunks by the migrated ones, and returns the collection's new state.

    Returns None, and changes nothing, if a document is not migrated yet. `before` is the collection's present state.
    The caller has begun the transaction of the connection `writer`, and commits it.
    """
    if writer.execute(f"SELECT 1 {_PENDING} LIMIT 1").fetchone() is not None:
        return None
    fingerprint, dimensions = writer.execute("SELECT fingerprint, dimensions FROM next_model").fetchone()
    # A document's size includes its vectors, whose number and length may have changed.
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


def _recount(writer: sqlite3.Connection, info: CollectionInfo) -> CollectionInfo:
    checksum, chunks = 0, 0
    for chunk_id, vector in writer.execute("SELECT id, vector FROM chunks"):
        values = np.frombuffer(vector, "<f4").reshape(1, -1)
        checksum ^= digests.checksum_vectors(np.array([chunk_id], np.int64), values)
        chunks += 1
    (size,) = writer.execute("SELECT coalesce(sum(bytes), 0) FROM documents").fetchone()
    counted = replace(info, chunks=chunks, checksum=checksum, bytes=size)
    write_counts(writer, counted)
    return counted
