"""The interface of a store that several retrievers share, and the registry of its implementations.

To add a store, write a module with a class and add one line to SHARED_STORES. Without changing this package, name
`module:attribute` in POINTSMAN_RETRIEVER_SHARED_STORE, or publish the class as an entry point of the group
`pointsman.shared_stores`. Every implementation must pass the tests in tests/retriever/shared_conformance.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import (
    CollectionId,
    CollectionInfo,
    EncodedDocument,
    Ids,
    Passage,
    Quota,
    RankedChunk,
    Vectors,
)
from pointsman_retriever.filters import Filter

GROUP = "pointsman.shared_stores"
SHARED_STORES: Mapping[str, str] = {
    "pgvector": "pointsman_retriever.shared.pgvector:PgvectorStore",
}


@dataclass(frozen=True, slots=True)
class SharedStoreOptions:
    url: str = field(repr=False)
    """The store's URL. It is left out of the object's repr, since it may contain a password."""
    token: str = field(default="", repr=False)
    """The password or key of the store; empty if the store needs none."""
    prefix: str = "pointsman"
    """The beginning of all names that retrievers create in the store. All names with it belong to one installation."""
    owner: str = "default"
    """The name of the installation. Retrievers with the same owner and prefix share their collections."""
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """Facts about a stored document. By them a change decides whether a new version of the document differs, and
    updates the collection's counts.

    `digest` is a hash of the document's content, and `checksum` a hash of its id and vectors; `bytes` and `chunks` are
    its size.
    """

    digest: bytes  # digests.hash_document
    recipe: str
    source: str
    bytes: int
    chunks: int
    checksum: int  # of its id and vectors: checksum_document


@dataclass(frozen=True, slots=True)
class Candidates:
    """The chunks that a search ranks, ascending by id, as parallel arrays with one row for each chunk.

    `counts` (candidates, terms), `lengths` (in words) and `frequencies` (number of chunks with each term) are the input
    of BM25.
    """

    ids: Ids
    documents: Ids  # the number of each chunk's document
    vectors: Vectors
    counts: NDArray[np.int32]  # (candidates, terms): how often a chunk contains each of the query's terms
    lengths: NDArray[np.int32]  # in words
    frequencies: NDArray[np.int64]  # (terms,): the chunks of the whole collection that contain each term
    words: int  # of all chunks of the collection


@dataclass(frozen=True, slots=True)
class CandidateQuery:
    """A request for the candidates of a search: at most `count` chunks nearest to `vector`, and as many that match
    `terms`.

    With a `filter`, only chunks of documents that match it are candidates.
    """

    vector: Vectors | None  # of length 1; None: not by meaning
    terms: Mapping[str, int]  # how often each term is in the query
    by_words: bool  # if False, the terms are only counted in the candidates
    filter: Filter | None
    count: int


class SharedReader(Protocol):
    """Interface for reading one version of a collection in the shared store. Changes made during the reading are not
    visible.
    """

    info: CollectionInfo

    def candidates(self, query: CandidateQuery) -> Candidates:
        """Returns the chunks that a search has to rank: the chunks nearest to the query's vector, and the best chunks
        by BM25.
        """

    def passages(self, ranked: Sequence[RankedChunk], neighbours: int) -> tuple[Passage, ...]:
        """Returns the passages of chunks, in their order, each with up to `neighbours` chunks before and after it."""

    def find(self, ids: Sequence[str]) -> Mapping[str, DocumentRecord]:
        """Returns the records of the documents with the given ids: id -> record. Ids of documents that are not stored
        are left out.
        """

    def document(self, document_id: str) -> EncodedDocument | None:
        """Returns a document with its chunks and vectors; None if it is not stored."""

    def ids_of_source(self, source: str) -> list[str]: ...

    def document_digests(self) -> Iterator[tuple[str, bytes]]:
        """Yields the id and the digest (`digests.hash_document`) of each document."""

    def documents(self, after: str, count: int) -> Sequence[EncodedDocument]:
        """Returns up to `count` documents whose ids come after the id `after`, with their chunks and vectors.

        They are in the order of the ids' UTF-8 bytes; an empty `after` begins with the first document.
        """

    def records(self, after: str, count: int) -> Sequence[tuple[str, DocumentRecord]]:
        """Returns (id, record) of up to `count` documents whose ids come after `after`, in the order of the ids' UTF-8
        bytes.
        """

    def sample_vectors(self, count: int) -> Vectors:
        """Returns the vectors of at most `count` chunks, (sampled, dimensions); collections with equal chunks have
        equal samples.
        """


class SharedChange(Protocol):
    """Interface for one change of a collection in the shared store, which is locked until the change ends.

    Other retrievers cannot change the collection meanwhile, but still search it.
    """

    info: CollectionInfo
    """The collection's state before the change."""

    def find(self, ids: Sequence[str]) -> Mapping[str, DocumentRecord]:
        """Returns the records of the documents with the given ids: id -> record. Ids of documents that are not stored
        are left out.
        """

    def commit(self, removed: Sequence[str], added: Sequence[EncodedDocument], after: CollectionInfo) -> None:
        """Deletes the documents with the ids `removed`, writes the documents `added`, and stores the collection's new
        state `after`.

        The method does all of these or none.
        """

    def documents(self, after: str, count: int) -> Sequence[EncodedDocument]:
        """Returns up to `count` documents whose ids come after `after`, in the order of the ids' UTF-8 bytes."""

    def records(self, after: str, count: int) -> Sequence[tuple[str, DocumentRecord]]:
        """Returns (id, record) of up to `count` documents whose ids come after `after`, in the order of the ids' UTF-8
        bytes.
        """

    def rename(self, to: CollectionId) -> None:
        """Gives the collection an id that no other one has; this takes effect when the change ends."""


class SharedStore(Protocol):
    """Interface of a store that several retrievers share; its methods block, and any thread of any retriever may call
    them.

    The methods raise FailedPrecondition if the store cannot be used until an operator changes it, InvalidArgument for a
    text that it cannot store, Unavailable if the store fails, and NotFound ("unknown_collection") if there is no such
    collection.
    """

    def collections(self) -> Sequence[CollectionInfo]: ...

    def create(self, info: CollectionInfo) -> bool:
        """Creates an empty collection; returns False if a collection with this id already exists."""

    def drop(self, collection: CollectionId) -> bool:
        """Deletes a collection; returns whether it existed."""

    def rename(self, collection: CollectionId, to: CollectionId, above_version: int) -> bool:
        """Gives a collection the id `to` and a version above `above_version`; returns whether it has done so.

        If another collection has the id `to`, it does nothing and returns False.
        """

    def configure(
        self, collection: CollectionId, quota: Quota | None = None, search_settings: str | None = None
    ) -> CollectionInfo:
        """Sets the quota or the search settings of a collection, whichever is not None; returns the new state."""

    def changing(
        self, collection: CollectionId, prepared: Sequence[EncodedDocument] = ()
    ) -> AbstractContextManager[SharedChange]:
        """Locks a collection for a change by this retriever. The change is undone if the block ends without a call of
        the change's `commit`.

        `prepared` are documents, with different ids, that the change may add. A store may write parts of them before it
        locks the collection, so that other retrievers wait for a shorter time.
        """

    def reading(self, collection: CollectionId) -> AbstractContextManager[SharedReader]: ...

    def close(self) -> None: ...


SharedStoreFactory = Callable[[SharedStoreOptions], SharedStore]
