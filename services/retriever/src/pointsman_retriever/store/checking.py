"""Whether a collection's file is whole: its pages, its counts, and each chunk's text against its vector."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from pointsman_servicekit.errors import Internal

from pointsman_retriever import digests
from pointsman_retriever.domain import Chunk, CollectionInfo
from pointsman_retriever.store.sqlite import Store, read_collection

MAX_PROBLEMS = 20
_MAX_NORM_ERROR = 1e-3


@dataclass(frozen=True, slots=True)
class Findings:
    collection: CollectionInfo
    problems: tuple[str, ...]  # none, where all is well; at most MOST_PROBLEMS

    def joined(self, problems: list[str]) -> "Findings":
        return replace(self, problems=(*problems, *self.problems)[:MAX_PROBLEMS])


def quick_check(store: Store) -> None:
    """Raises Internal where the pages are damaged."""
    with store.connections.reading() as reader:
        if found := _pragma(reader, "quick_check"):
            raise Internal(
                f"collection {str(store.id)!r} is damaged: {'; '.join(found)}; restore its last snapshot",
                code="collection_damaged",
            )


def check_all(store: Store) -> Findings:
    """Reads every row, as they are at one moment."""
    with store.connections.reading() as reader:
        reader.execute("BEGIN")
        collection = read_collection(reader, store.id)
        tally = _Counts()
        problems = list(islice(_find_problems(reader, collection, tally), MAX_PROBLEMS))
    return Findings(collection, tuple(problems))


@dataclass(slots=True)
class _Counts:
    documents: int = 0
    bytes: int = 0
    chunks: int = 0
    checksum: int = field(default=0)


def _find_problems(reader: sqlite3.Connection, collection: CollectionInfo, tally: _Counts) -> Iterator[str]:
    damage = _pragma(reader, "integrity_check")
    yield from damage
    if damage:
        return  # what is read from such a file says nothing
    if orphans := reader.execute("PRAGMA foreign_key_check").fetchall():
        yield f"{len(orphans):,} rows belong to documents that are not there"
    yield from _check_documents(reader, tally)
    yield from _check_chunks(reader, collection, tally)
    for what in ("documents", "chunks", "bytes", "checksum"):
        said, found = getattr(collection, what), getattr(tally, what)
        if said != found:
            yield f"the collection's row says {what} {said}, and there are {found}"


def _check_documents(reader: sqlite3.Connection, tally: _Counts) -> Iterator[str]:
    for row, document_id, title, text, digest, size in reader.execute(
        "SELECT row, id, title, text, digest, bytes FROM documents"
    ):
        tally.documents += 1
        tally.bytes += size
        metadata = dict(reader.execute("SELECT key, value FROM metadata WHERE document = ?", (row,)))
        if digests.hash_document(title, text, metadata) != digest:
            yield f"document {document_id!r} has another content than was written"


def _check_chunks(reader: sqlite3.Connection, collection: CollectionInfo, tally: _Counts) -> Iterator[str]:
    for chunk_id, document_id, whole, start, end, context, text, vector, digest in reader.execute(
        "SELECT chunks.id, documents.id, documents.text, start, end, context, chunks.text, vector, chunks.digest "
        "FROM chunks JOIN documents ON document = row ORDER BY document, start"
    ):
        tally.chunks += 1
        where = f"chunk {chunk_id} of document {document_id!r}"
        if whole[start:end] != text:
            yield f"{where} is not the document's text from {start} to {end}"
        if digests.hash_chunk(Chunk(text, start, end, context).in_context, vector) != digest:
            yield f"the text and the vector of {where} do not belong together"
        if len(vector) != 4 * collection.dimensions:
            yield f"the vector of {where} has {len(vector) // 4} values; the model's have {collection.dimensions}"
            continue
        values = np.frombuffer(vector, "<f4").reshape(1, -1)
        if not abs(float(np.linalg.norm(values)) - 1.0) < _MAX_NORM_ERROR:
            yield f"the vector of {where} is not of length one"
        tally.checksum ^= digests.checksum_vectors(np.array([chunk_id], np.int64), values)


def _pragma(reader: sqlite3.Connection, check: str) -> list[str]:
    rows = reader.execute(f"PRAGMA {check}({MAX_PROBLEMS})").fetchall()
    return [] if rows == [("ok",)] else [str(row[0]) for row in rows]
