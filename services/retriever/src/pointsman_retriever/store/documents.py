"""Reads whole documents with their chunks and vectors from a collection's file, in the order of their ids."""

import json
import sqlite3
from collections.abc import Sequence

import numpy as np

from pointsman_retriever.domain import Chunk, Document, EncodedDocument
from pointsman_retriever.store.store import Store


def read_documents(store: Store, after: str, count: int) -> Sequence[EncodedDocument]:
    """Returns up to `count` documents whose ids come after `after`, in the order of the ids' UTF-8 bytes.

    Raises storage errors (`translate_errors`).
    """
    with store.connections.reader() as reader:
        reader.execute("BEGIN")
        documents = reader.execute(
            "SELECT row, id, title, text, recipe, source, "
            "(SELECT json_group_object(key, value) FROM metadata WHERE document = row) "
            "FROM documents WHERE id > ? ORDER BY id LIMIT ?",
            (after, count),
        ).fetchall()
        chunks = _read_chunks(reader, [row[0] for row in documents])
    return [
        EncodedDocument(
            document=Document(document_id, title, text, json.loads(metadata)),
            chunks=tuple(Chunk(*one[:4]) for one in chunks[row]),
            vectors=np.stack([np.frombuffer(one[4], "<f4") for one in chunks[row]]).astype(np.float32),
            recipe=recipe,
            source=source,
        )
        for row, document_id, title, text, recipe, source, metadata in documents
    ]


def _read_chunks(reader: sqlite3.Connection, rows: Sequence[int]) -> dict[int, list[tuple[str, int, int, str, bytes]]]:
    chunks: dict[int, list[tuple[str, int, int, str, bytes]]] = {row: [] for row in rows}
    found = reader.execute(
        "SELECT document, text, start, end, context, vector FROM chunks "
        "WHERE document IN (SELECT value FROM json_each(?)) ORDER BY document, start, id",
        (json.dumps(list(rows)),),
    )
    for document, *chunk in found:
        chunks[document].append(tuple(chunk))
    return chunks
