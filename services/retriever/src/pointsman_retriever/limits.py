"""What a request may hold; everything here raises InvalidArgument, and says what would be right."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from pointsman_servicekit.errors import InvalidArgument

from pointsman_retriever.domain import Document, Query, Vectors

MAX_ID_BYTES = 256
MAX_DOCUMENTS = 1_000
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_CALL_BYTES = 32 * 1024 * 1024
MAX_METADATA = 16
MAX_QUERY_BYTES = 64 * 1024
MAX_TOP_K = 100
DEFAULT_TOP_K = 4

_NAME = re.compile(r"[a-z0-9_-]{1,64}")


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"collection name {name[:80]!r} is not 1 to 64 of a-z, 0-9, '-' and '_'",
            code="invalid_collection_name",
            param="name",
        )


def check_ids(ids: Sequence[str]) -> None:
    for identifier in ids:
        size = len(identifier.encode())
        if not 1 <= size <= MAX_ID_BYTES:
            raise InvalidArgument(
                f"document id {identifier[:80]!r} has {size} bytes; it needs 1 to {MAX_ID_BYTES}",
                code="invalid_document_id",
                param="id",
            )


def check_documents(documents: Sequence[Document]) -> None:
    if len(documents) > MAX_DOCUMENTS:
        raise InvalidArgument(
            f"{len(documents):,} documents in one call; at most {MAX_DOCUMENTS:,} are taken, so send several calls",
            code="too_many_documents",
            param="documents",
        )
    check_ids([document.id for document in documents])
    seen: set[str] = set()
    total = 0
    for document in documents:
        if document.id in seen:
            raise InvalidArgument(
                f"document {document.id!r} is twice in one call; each id may be there once",
                code="duplicate_document_id",
                param="documents",
            )
        seen.add(document.id)
        total += _check_document(document)
    if total > MAX_CALL_BYTES:
        raise InvalidArgument(
            f"the documents have {total:,} bytes together; at most {MAX_CALL_BYTES:,} are taken, so send several calls",
            code="call_too_large",
            param="documents",
        )


def check_query(query: Query) -> None:
    size = len(query.text.encode())
    if size > MAX_QUERY_BYTES:
        raise InvalidArgument(
            f"the query has {size:,} bytes; at most {MAX_QUERY_BYTES:,} are taken",
            code="query_too_large",
            param="query",
        )
    if not query.text.strip():
        raise InvalidArgument("the query is empty; say what to look for", code="empty_query", param="query")
    if query.top_k > MAX_TOP_K:
        raise InvalidArgument(
            f"top_k is {query.top_k}; at most {MAX_TOP_K} passages are given", code="invalid_top_k", param="top_k"
        )
    if query.dense_weight is not None and not 0.0 <= query.dense_weight <= 1.0:
        raise InvalidArgument(
            f"dense_weight is {query.dense_weight}; it goes from 0 (words only) to 1 (meaning only)",
            code="invalid_dense_weight",
            param="dense_weight",
        )
    _check_entries(query.filter, "the filter", "filter")


def check_vector(vector: Vectors, dimensions: int) -> None:
    if vector.shape != (dimensions,):
        raise InvalidArgument(
            f"the vector has {vector.size} values; the model's have {dimensions}", code="invalid_vector", param="vector"
        )
    if not np.isfinite(vector).all():
        raise InvalidArgument("the vector has values that are not finite", code="invalid_vector", param="vector")
    if not vector.any():
        raise InvalidArgument("the vector is all zeros, which has no direction", code="invalid_vector", param="vector")


def _check_document(document: Document) -> int:
    if not document.text.strip():
        raise InvalidArgument(
            f"document {document.id!r} has no text; to remove it, call Delete", code="empty_document", param="text"
        )
    _check_entries(document.metadata, f"the metadata of document {document.id!r}", "metadata")
    texts = (document.id, document.title, document.text, *document.metadata.keys(), *document.metadata.values())
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidArgument(
            f"document {document.id!r} has {size:,} bytes; at most {MAX_DOCUMENT_BYTES:,} are taken, so split it",
            code="document_too_large",
            param="documents",
        )
    return size


def _check_entries(entries: Mapping[str, str], what: str, param: str) -> None:
    if len(entries) > MAX_METADATA:
        raise InvalidArgument(
            f"{what} has {len(entries)} entries; at most {MAX_METADATA} are taken",
            code="too_many_metadata_entries",
            param=param,
        )
    if "" in entries:
        raise InvalidArgument(f"{what} has an empty key; name it", code="empty_metadata_key", param=param)
