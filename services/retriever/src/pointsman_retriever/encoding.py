"""Texts to vectors, in the threads that are there for it; and the guard that vectors of two models never meet."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_retriever.domain import Chunk, CollectionInfo, Document, EncodedDocument, NamedVector, Query, Vectors
from pointsman_retriever.limits import check_vector
from pointsman_retriever.workers import ThreadPools

DOCUMENTS_PER_CHUNKING_BATCH = 16  # cut in one turn of a thread
EMBEDDING_BATCH_SIZE = 8  # between two batches a cancelled upsert ends, and another one's batch has its turn
MAX_BATCHES_IN_FLIGHT = 4  # of one call, in the threads and before them
GIVEN_VECTOR_RECIPE = "given"  # the recipe of a document that came with its vector

# The vectors that a document's chunks have already, by the text that was embedded.
FindKnownVectors = Callable[[str], Mapping[str, Vectors]]

T = TypeVar("T")
R = TypeVar("R")


class Embedder(Protocol):
    @property
    def fingerprint(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...


class Chunker(Protocol):
    def recipe(self, document: Document) -> str:
        """The way it will be cut, by name; chunks made in another way are made anew."""

    def chunk(self, document: Document) -> tuple[Chunk, ...]: ...

    def chunk_again(self, document: Document, recipe: str) -> tuple[Chunk, ...]:
        """As a document was cut whose recipe is known, and whose media type no longer is."""


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document in its chunks, before they have all their vectors."""

    document: Document
    chunks: tuple[Chunk, ...]
    recipe: str
    source: str
    known: Mapping[str, Vectors]  # by the text that is embedded

    @property
    def missing(self) -> list[str]:
        """The texts that have to be embedded."""
        return [chunk.in_context for chunk in self.chunks if chunk.in_context not in self.known]

    def made(self, fresh: Mapping[str, Vectors]) -> EncodedDocument:
        texts = [chunk.in_context for chunk in self.chunks]
        return EncodedDocument(
            document=self.document,
            chunks=self.chunks,
            vectors=np.stack([self.known[text] if text in self.known else fresh[text] for text in texts]),
            recipe=self.recipe,
            source=self.source,
        )


class DocumentEncoder:
    def __init__(self, embedder: Embedder, chunker: Chunker, crew: ThreadPools) -> None:
        self.fingerprint = embedder.fingerprint
        self.dimensions = embedder.dimensions
        self._embedder = embedder
        self._chunker = chunker
        self._crew = crew

    def check_made_here(self, collection: CollectionInfo) -> None:
        """Raises FailedPrecondition where the collection's vectors are another model's."""
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
        """Raises InvalidArgument and FailedPrecondition where the document's own vector cannot be used."""
        if document.vector is None:
            return document
        unit = self._unit(document.vector, f"the vector of document {document.id!r}")
        return replace(document, vector=NamedVector(self.fingerprint, unit))

    def query_vector(self, query: Query) -> Vectors:
        """(dimensions,), unit length: the vector that came with the query, else its text's. Blocks."""
        if query.vector is None:
            return self._embedder.embed([query.text]).reshape(self.dimensions)
        return self._unit(query.vector, "the query's vector")

    async def encode(
        self, documents: Sequence[Document], source: str, known: FindKnownVectors
    ) -> list[EncodedDocument]:
        """In the same order; what `known` has is not embedded again."""
        return await self._made(partial(self._cut, source, known), documents)

    async def encode_again(self, documents: Sequence[tuple[Document, str]]) -> list[EncodedDocument]:
        """Documents of the store with their recipes, for this model: nothing that was made by another is used."""
        return await self._made(self._cut_again, documents)

    def _cut(self, source: str, known: FindKnownVectors, document: Document) -> ChunkedDocument:
        if document.vector is None:
            return ChunkedDocument(
                document, self._chunker.chunk(document), self._chunker.recipe(document), source, known(document.id)
            )
        chunk = _single_chunk(document)
        return ChunkedDocument(
            document, (chunk,), GIVEN_VECTOR_RECIPE, source, {chunk.in_context: document.vector.values}
        )

    def _cut_again(self, stored: tuple[Document, str]) -> ChunkedDocument:
        document, recipe = stored
        chunks = (
            (_single_chunk(document),) if recipe == GIVEN_VECTOR_RECIPE else self._chunker.chunk_again(document, recipe)
        )
        return ChunkedDocument(document, chunks, recipe, "", {})

    async def _made(self, cut: Callable[[T], ChunkedDocument], documents: Sequence[T]) -> list[EncodedDocument]:
        cuts: list[ChunkedDocument] = []
        for start in range(0, len(documents), DOCUMENTS_PER_CHUNKING_BATCH):
            some = documents[start : start + DOCUMENTS_PER_CHUNKING_BATCH]
            cuts += await self._crew.ingesting.run(_map_all, cut, some)
        texts = list(dict.fromkeys(text for one in cuts for text in one.missing))
        fresh = dict(zip(texts, await self._embed(texts), strict=True))
        return await self._crew.ingesting.run(_map_all, lambda one: one.made(fresh), cuts)

    async def _embed(self, texts: Sequence[str]) -> list[Vectors]:
        if not texts:
            return []
        places = asyncio.Semaphore(MAX_BATCHES_IN_FLIGHT)

        async def embed(batch: Sequence[str]) -> Vectors:
            async with places:
                return await self._crew.ingesting.run(self._embedder.embed, batch)

        batches = [texts[start : start + EMBEDDING_BATCH_SIZE] for start in range(0, len(texts), EMBEDDING_BATCH_SIZE)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(embed(batch)) for batch in batches]
        return [vector for task in tasks for vector in task.result()]

    def _unit(self, vector: NamedVector, what: str) -> Vectors:
        if vector.fingerprint != self.fingerprint:
            raise FailedPrecondition(
                f"{what} was made by embedding model {vector.fingerprint!r}, and this retriever runs "
                f"{self.fingerprint!r}; send the text without a vector, or run the same model on both sides",
                code="fingerprint_mismatch",
                param="vector",
            )
        check_vector(vector.values, self.dimensions)
        exact = vector.values.astype(np.float64)  # a square of a great float32 is not finite
        unit: Vectors = (exact / np.linalg.norm(exact)).astype(np.float32)
        return unit


def _single_chunk(document: Document) -> Chunk:
    return Chunk(document.text, 0, len(document.text), document.title.strip())


def _map_all(work: Callable[[T], R], things: Sequence[T]) -> list[R]:
    return [work(thing) for thing in things]
