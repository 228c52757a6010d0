"""Chunks and embeds documents in the ingest threads, and keeps vectors of different models apart."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_retriever.concurrency import ThreadPools
from pointsman_retriever.domain import Chunk, CollectionInfo, Document, EncodedDocument, NamedVector, Query, Vectors
from pointsman_retriever.limits import check_vector

DOCUMENTS_PER_CHUNKING_BATCH = 16  # in one run of an ingest thread
EMBEDDING_BATCH_SIZE = 8  # chunks; a cancelled upsert stops between batches, and other calls get a turn
MAX_BATCHES_IN_FLIGHT = 4  # of one call, queued ones included
GIVEN_VECTOR_RECIPE = "given"  # the recipe of a document that came with its vector

# From a document id to the vectors of its stored chunks, by the text that was embedded.
FindKnownVectors = Callable[[str], Mapping[str, Vectors]]

T = TypeVar("T")
R = TypeVar("R")


class Embedder(Protocol):
    """An embedding model."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns (texts, dimensions), unit length. Blocks."""


class Chunker(Protocol):
    """Splits documents into chunks."""

    def recipe(self, document: Document) -> str:
        """Names the chunker and its version for this document; a different recipe means that it is chunked again."""

    def chunk(self, document: Document) -> tuple[Chunk, ...]: ...

    def chunk_again(self, document: Document, recipe: str) -> tuple[Chunk, ...]:
        """Chunks a stored document by its recipe, because its media type is not stored."""


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document in chunks, some of which may still need a vector."""

    document: Document
    chunks: tuple[Chunk, ...]
    recipe: str
    source: str
    known: Mapping[str, Vectors]  # by embedded text

    @property
    def missing(self) -> list[str]:
        """The texts without a vector."""
        return [chunk.embedded_text for chunk in self.chunks if chunk.embedded_text not in self.known]

    def with_vectors(self, new: Mapping[str, Vectors]) -> EncodedDocument:
        texts = [chunk.embedded_text for chunk in self.chunks]
        return EncodedDocument(
            document=self.document,
            chunks=self.chunks,
            vectors=np.stack([self.known[text] if text in self.known else new[text] for text in texts]),
            recipe=self.recipe,
            source=self.source,
        )


class DocumentEncoder:
    """Turns documents into chunks with vectors, and queries into vectors."""

    def __init__(self, embedder: Embedder, chunker: Chunker, pools: ThreadPools) -> None:
        self.fingerprint = embedder.fingerprint
        self.dimensions = embedder.dimensions
        self._embedder = embedder
        self._chunker = chunker
        self._pools = pools

    def check_model(self, collection: CollectionInfo) -> None:
        """Raises FailedPrecondition if another model made the collection's vectors."""
        if collection.fingerprint != self.fingerprint:
            raise FailedPrecondition(
                f"collection {str(collection.id)!r} was built with embedding model {collection.fingerprint}, and this "
                f"retriever runs {self.fingerprint}; migrate it (`pointsman retriever reembed {collection.name}`), or "
                "run the model that built it",
                code="fingerprint_mismatch",
                param="collection",
            )

    def recipe(self, document: Document) -> str:
        return GIVEN_VECTOR_RECIPE if document.vector is not None else self._chunker.recipe(document)

    def with_unit_vector(self, document: Document) -> Document:
        """Normalises the document's own vector, if it has one.

        Raises InvalidArgument for an unusable vector and FailedPrecondition for one of another model.
        """
        if document.vector is None:
            return document
        unit = self._normalise(document.vector, f"the vector of document {document.id!r}")
        return replace(document, vector=NamedVector(self.fingerprint, unit))

    def query_vector(self, query: Query) -> Vectors:
        """Returns (dimensions,), unit length: the query's own vector, or the embedding of its text. Blocks."""
        if query.vector is None:
            return self._embedder.embed([query.text]).reshape(self.dimensions)
        return self._normalise(query.vector, "the query's vector")

    async def encode(
        self, documents: Sequence[Document], source: str, find_known: FindKnownVectors
    ) -> list[EncodedDocument]:
        """Returns the documents in the same order; chunks whose vector `find_known` has are not embedded again."""
        return await self._encode(partial(self._chunk, source, find_known), documents)

    async def encode_again(self, documents: Sequence[tuple[Document, str]]) -> list[EncodedDocument]:
        """Encodes stored documents, given with their recipes, for this model; reuses no vector."""
        return await self._encode(self._chunk_again, documents)

    def _chunk(self, source: str, find_known: FindKnownVectors, document: Document) -> ChunkedDocument:
        if document.vector is None:
            chunks, recipe = self._chunker.chunk(document), self._chunker.recipe(document)
            return ChunkedDocument(document, chunks, recipe, source, find_known(document.id))
        chunk = _single_chunk(document)
        known = {chunk.embedded_text: document.vector.values}
        return ChunkedDocument(document, (chunk,), GIVEN_VECTOR_RECIPE, source, known)

    def _chunk_again(self, stored: tuple[Document, str]) -> ChunkedDocument:
        document, recipe = stored
        is_single = recipe == GIVEN_VECTOR_RECIPE
        chunks = (_single_chunk(document),) if is_single else self._chunker.chunk_again(document, recipe)
        return ChunkedDocument(document, chunks, recipe, "", {})

    async def _encode(self, chunk: Callable[[T], ChunkedDocument], documents: Sequence[T]) -> list[EncodedDocument]:
        chunked: list[ChunkedDocument] = []
        for start in range(0, len(documents), DOCUMENTS_PER_CHUNKING_BATCH):
            batch = documents[start : start + DOCUMENTS_PER_CHUNKING_BATCH]
            chunked += await self._pools.ingest.run(_map_all, chunk, batch)
        texts = list(dict.fromkeys(text for one in chunked for text in one.missing))
        vectors = dict(zip(texts, await self._embed(texts), strict=True))
        return await self._pools.ingest.run(_map_all, lambda one: one.with_vectors(vectors), chunked)

    async def _embed(self, texts: Sequence[str]) -> list[Vectors]:
        if not texts:
            return []
        slots = asyncio.Semaphore(MAX_BATCHES_IN_FLIGHT)

        async def embed(batch: Sequence[str]) -> Vectors:
            async with slots:
                return await self._pools.ingest.run(self._embedder.embed, batch)

        starts = range(0, len(texts), EMBEDDING_BATCH_SIZE)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(embed(texts[start : start + EMBEDDING_BATCH_SIZE])) for start in starts]
        return [vector for task in tasks for vector in task.result()]

    def _normalise(self, vector: NamedVector, what: str) -> Vectors:
        if vector.fingerprint != self.fingerprint:
            raise FailedPrecondition(
                f"{what} was made by embedding model {vector.fingerprint!r}, and this retriever runs "
                f"{self.fingerprint!r}; send the text without a vector, or run the same model on both sides",
                code="fingerprint_mismatch",
                param="vector",
            )
        check_vector(vector.values, self.dimensions)
        exact = vector.values.astype(np.float64)  # the square of a large float32 overflows
        unit: Vectors = (exact / np.linalg.norm(exact)).astype(np.float32)
        return unit


def _single_chunk(document: Document) -> Chunk:
    return Chunk(document.text, 0, len(document.text), document.title.strip())


def _map_all(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]
