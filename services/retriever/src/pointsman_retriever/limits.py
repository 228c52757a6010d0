"""Limits on requests. Each function named `check_...` raises InvalidArgument if its argument is not allowed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pointsman_servicekit.errors import InvalidArgument, ResourceExhausted

from pointsman_retriever.domain import (
    NAME_PATTERN,
    UNLIMITED,
    CollectionId,
    Document,
    Query,
    Quota,
    RawDocument,
    SearchOptions,
    Vectors,
)
from pointsman_retriever.filters import check_filter

MAX_ID_BYTES = 256
MAX_DOCUMENTS = 1_000
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_CALL_BYTES = 32 * 1024 * 1024
MAX_METADATA = 16
MAX_QUERY_BYTES = 64 * 1024
MAX_TOP_K = 100
MAX_NEIGHBOURS = 10
MAX_SEARCHES = 100  # of a batch
DEFAULT_TOP_K = 4
MAX_CONTENT_BYTES = 32 * 1024 * 1024  # of a file; more than of a text, because most of a file may be images
MAX_SOURCE_BYTES = 256
MAX_CHARACTERS_WITH_VECTOR = 2_000
MAX_QUOTA = 2**63 - 1  # the largest integer of SQLite and PostgreSQL


def check_name(collection: CollectionId) -> None:
    if not NAME_PATTERN.fullmatch(collection.tenant):
        raise InvalidArgument(
            f"tenant {collection.tenant[:80]!r} is not 1 to 64 of a-z, 0-9, '-' and '_'",
            code="invalid_tenant",
            param="tenant",
        )
    if not NAME_PATTERN.fullmatch(collection.name):
        raise InvalidArgument(
            f"collection name {collection.name[:80]!r} is not 1 to 64 of a-z, 0-9, '-' and '_'",
            code="invalid_collection_name",
            param="name",
        )


def check_quota(quota: Quota) -> None:
    for name in ("documents", "chunks", "bytes"):
        if getattr(quota, name) > MAX_QUOTA:
            raise InvalidArgument(
                f"the quota of {name} is {getattr(quota, name)}; the maximum is {MAX_QUOTA}, and 0 means no limit",
                code="invalid_quota",
                param=f"quota.{name}",
            )


def check_source(source: str) -> None:
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise InvalidArgument(
            f"the source's name has {len(source.encode())} bytes; the maximum is {MAX_SOURCE_BYTES}",
            code="invalid_source",
            param="source",
        )


def check_content(document: RawDocument) -> None:
    if len(document.content) > MAX_CONTENT_BYTES:
        raise InvalidArgument(
            f"document {document.id!r} has a file of {len(document.content):,} bytes; the maximum is "
            f"{MAX_CONTENT_BYTES:,}",
            code="document_too_large",
            param="content",
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
            f"{len(documents):,} documents in one call; the maximum is {MAX_DOCUMENTS:,}, so send several calls",
            code="too_many_documents",
            param="documents",
        )
    check_ids([document.id for document in documents])
    seen: set[str] = set()
    total = 0
    for document in documents:
        if document.id in seen:
            raise InvalidArgument(
                f"document {document.id!r} appears twice in one call; each id may appear once",
                code="duplicate_document_id",
                param="documents",
            )
        seen.add(document.id)
        total += check_document(document)
    if total > MAX_CALL_BYTES:
        raise InvalidArgument(
            f"the documents have {total:,} bytes together; the maximum is {MAX_CALL_BYTES:,}, so send several calls",
            code="call_too_large",
            param="documents",
        )


def check_query(query: Query) -> None:
    _check_query_text(query.text)
    _check_options(query.options)
    if query.filter is not None:
        check_filter(query.filter)


def _check_query_text(text: str) -> None:
    size = len(text.encode())
    if size > MAX_QUERY_BYTES:
        raise InvalidArgument(
            f"the query has {size:,} bytes; the maximum is {MAX_QUERY_BYTES:,}",
            code="query_too_large",
            param="query",
        )
    if not text.strip():
        raise InvalidArgument("the query is empty; send a text to search for", code="empty_query", param="query")


def check_rerank(query: str, documents: Sequence[str]) -> None:
    """Raises InvalidArgument if the query or a document is blank, there are not 1 to `MAX_DOCUMENTS` documents, or the
    texts are too large.
    """
    _check_query_text(query)
    if not 0 < len(documents) <= MAX_DOCUMENTS:
        raise InvalidArgument(
            f"{len(documents):,} documents to rerank; 1 to {MAX_DOCUMENTS:,} can be",
            code="too_many_documents" if documents else "empty_document",
            param="documents",
        )
    for number, document in enumerate(documents):
        size = len(document.encode())
        if size > MAX_DOCUMENT_BYTES:
            raise InvalidArgument(
                f"documents[{number}] has {size:,} bytes; the maximum is {MAX_DOCUMENT_BYTES:,}, so split it",
                code="document_too_large",
                param="documents",
            )
        if not document.strip():
            raise InvalidArgument(f"documents[{number}] is empty", code="empty_document", param="documents")


def _check_options(options: SearchOptions) -> None:
    if options.top_k > MAX_TOP_K:
        raise InvalidArgument(
            f"top_k is {options.top_k}; the maximum is {MAX_TOP_K}", code="invalid_top_k", param="top_k"
        )
    if options.dense_weight is not None:
        check_share("dense_weight", options.dense_weight, "0 (words only) to 1 (meaning only)")
    check_share("diversity", options.diversity, "0 (by score alone) to 1 (by dissimilarity alone)")
    if options.neighbours > MAX_NEIGHBOURS:
        raise InvalidArgument(
            f"neighbours is {options.neighbours}; the maximum is {MAX_NEIGHBOURS} chunks on each side",
            code="invalid_neighbours",
            param="neighbours",
        )


def check_share(what: str, value: float, span: str) -> None:
    """Raises InvalidArgument if `value` is not from 0 to 1.

    `what` is the name of the request's field; the error's code is "invalid_" and this name. `span` describes the
    allowed range in the error's message.
    """
    if not 0.0 <= value <= 1.0:  # NaN fails too
        raise InvalidArgument(f"{what} is {value}; it ranges from {span}", code=f"invalid_{what}", param=what)


def check_vector(vector: Vectors, dimensions: int) -> None:
    """Raises InvalidArgument ("invalid_vector") unless `vector` is finite, not zero and of the shape (dimensions,)."""
    if vector.shape != (dimensions,):
        raise InvalidArgument(
            f"the vector has {vector.size} values; the model's vectors have {dimensions}",
            code="invalid_vector",
            param="vector",
        )
    if not np.isfinite(vector).all():
        raise InvalidArgument("the vector has values that are not finite", code="invalid_vector", param="vector")
    if not vector.any():
        raise InvalidArgument("the vector is all zeros and has no direction", code="invalid_vector", param="vector")


def check_document(document: Document) -> int:
    """Returns how many bytes a document's id, title, text and metadata have in UTF-8.

    Raises InvalidArgument if these are more than `MAX_DOCUMENT_BYTES`, if the text is blank, if a document with a
    vector has more than `MAX_CHARACTERS_WITH_VECTOR` characters of text, and for metadata as `check_entries` does.
    """
    if not document.text.strip():
        raise InvalidArgument(
            f"document {document.id!r} has no text; to remove it, call Delete", code="empty_document", param="text"
        )
    if document.vector is not None and len(document.text) > MAX_CHARACTERS_WITH_VECTOR:
        raise InvalidArgument(
            f"document {document.id!r} has {len(document.text):,} characters and a vector of its own; the "
            f"maximum with a vector is {MAX_CHARACTERS_WITH_VECTOR:,}, so send it without one, or in parts",
            code="text_too_long_for_a_vector",
            param="vector",
        )
    check_entries(document.metadata, f"the metadata of document {document.id!r}", "metadata")
    texts = (document.id, document.title, document.text, *document.metadata.keys(), *document.metadata.values())
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidArgument(
            f"document {document.id!r} has {size:,} bytes; the maximum is {MAX_DOCUMENT_BYTES:,}, so split it",
            code="document_too_large",
            param="documents",
        )
    return size


def check_entries(entries: Mapping[str, str], what: str, param: str) -> None:
    """Raises InvalidArgument if there are more than `MAX_METADATA` entries, or one has an empty key.

    `what` names the entries in the error's message, `param` is their field in the request.
    """
    if len(entries) > MAX_METADATA:
        raise InvalidArgument(
            f"{what} has {len(entries)} entries; the maximum is {MAX_METADATA}",
            code="too_many_metadata_entries",
            param=param,
        )
    if "" in entries:
        raise InvalidArgument(f"{what} has an empty key; name it", code="empty_metadata_key", param=param)


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The maximum number of collections of each tenant, and the default quota of collections that are created without a
    quota.
    """

    collections: int = 0  # per tenant; 0 means unlimited
    quota: Quota = UNLIMITED  # of a collection that was created without one

    def check_one_more(self, tenant: str, collections: int) -> None:
        """Raises ResourceExhausted ("quota_exceeded") if `tenant` has the maximum number of collections already.

        `collections` is the number of collections that the tenant has.
        """
        if self.collections and collections >= self.collections:
            raise ResourceExhausted(
                f"tenant {tenant!r} has {collections:,} collections, the maximum; delete one first",
                code="quota_exceeded",
                param="collections",
            )
