"""What a request may hold; everything here raises InvalidArgument, and says what would be right."""

from collections.abc import Mapping, Sequence

import numpy as np
from pointsman_servicekit.errors import InvalidArgument

from pointsman_retriever.domain import NAME_PATTERN, CollectionId, Document, Query, RawDocument, SearchOptions, Vectors
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
MAX_CONTENT_BYTES = 32 * 1024 * 1024  # of a file, which may be pictures for the most part
MAX_SOURCE_BYTES = 256
MAX_CHARACTERS_WITH_VECTOR = 2_000


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


def check_source(source: str) -> None:
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise InvalidArgument(
            f"the source's name has {len(source.encode())} bytes; at most {MAX_SOURCE_BYTES} are taken",
            code="invalid_source",
            param="source",
        )


def check_content(document: RawDocument) -> None:
    if len(document.content) > MAX_CONTENT_BYTES:
        raise InvalidArgument(
            f"document {document.id!r} has a file of {len(document.content):,} bytes; at most {MAX_CONTENT_BYTES:,} "
            "are taken",
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
        total += check_document(document)
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
    _check_wishes(query.wishes)
    if query.filter is not None:
        check_filter(query.filter)


def _check_wishes(wishes: SearchOptions) -> None:
    if wishes.top_k > MAX_TOP_K:
        raise InvalidArgument(
            f"top_k is {wishes.top_k}; at most {MAX_TOP_K} passages are given", code="invalid_top_k", param="top_k"
        )
    if wishes.dense_weight is not None:
        check_share("dense_weight", wishes.dense_weight, "0 (words only) to 1 (meaning only)")
    check_share("diversity", wishes.diversity, "0 (as they rank) to 1 (as unlike each other as can be)")
    if wishes.neighbours > MAX_NEIGHBOURS:
        raise InvalidArgument(
            f"neighbours is {wishes.neighbours}; at most {MAX_NEIGHBOURS} chunks on each side are given",
            code="invalid_neighbours",
            param="neighbours",
        )


def check_share(what: str, value: float, span: str) -> None:
    """What is no number at all is refused too."""
    if not 0.0 <= value <= 1.0:
        raise InvalidArgument(f"{what} is {value}; it goes from {span}", code=f"invalid_{what}", param=what)


def check_vector(vector: Vectors, dimensions: int) -> None:
    if vector.shape != (dimensions,):
        raise InvalidArgument(
            f"the vector has {vector.size} values; the model's have {dimensions}", code="invalid_vector", param="vector"
        )
    if not np.isfinite(vector).all():
        raise InvalidArgument("the vector has values that are not finite", code="invalid_vector", param="vector")
    if not vector.any():
        raise InvalidArgument("the vector is all zeros, which has no direction", code="invalid_vector", param="vector")


def check_document(document: Document) -> int:
    """Returns its bytes."""
    if not document.text.strip():
        raise InvalidArgument(
            f"document {document.id!r} has no text; to remove it, call Delete", code="empty_document", param="text"
        )
    if document.vector is not None and len(document.text) > MAX_CHARACTERS_WITH_VECTOR:
        raise InvalidArgument(
            f"document {document.id!r} has {len(document.text):,} characters and one vector for all of them; at most "
            f"{MAX_CHARACTERS_WITH_VECTOR:,} are taken with a vector, so send it without, or in pieces",
            code="text_too_long_for_a_vector",
            param="vector",
        )
    check_entries(document.metadata, f"the metadata of document {document.id!r}", "metadata")
    texts = (document.id, document.title, document.text, *document.metadata.keys(), *document.metadata.values())
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidArgument(
            f"document {document.id!r} has {size:,} bytes; at most {MAX_DOCUMENT_BYTES:,} are taken, so split it",
            code="document_too_large",
            param="documents",
        )
    return size


def check_entries(entries: Mapping[str, str], what: str, param: str) -> None:
    if len(entries) > MAX_METADATA:
        raise InvalidArgument(
            f"{what} has {len(entries)} entries; at most {MAX_METADATA} are taken",
            code="too_many_metadata_entries",
            param=param,
        )
    if "" in entries:
        raise InvalidArgument(f"{what} has an empty key; name it", code="empty_metadata_key", param=param)
