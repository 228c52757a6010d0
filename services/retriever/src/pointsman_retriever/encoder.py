"""Splits documents into chunks, embeds chunks and queries, and rejects vectors of other embedding models."""

import asyncio
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from pointsman_servicekit.errors import FailedPrecondition, PointsmanError

from pointsman_retriever.concurrency import ThreadPool, ThreadPools
from pointsman_retriever.domain import Chunk, CollectionInfo, Document, EncodedDocument, NamedVector, Query, Vectors
from pointsman_retriever.limits import check_vector

EMBEDDING_BATCH_SIZE = 8  # chunks; a cancelled upsert stops between batches, and other calls get a turn
MAX_BATCHES_IN_FLIGHT = 4  # of one call, queued ones included
GIVEN_VECTOR_RECIPE = "given"  # the recipe of a document that came with its vector

# From a document id to the vectors of its stored chunks, by the text that was embedded.
FindKnownVectors = Callable[[str], Mapping[str, Vectors]]

T = TypeVar("T")
R = TypeVar("R")


class Embedder(Protocol):
    """Interface of an embedding model; `Prefixed` of `pointsman_embedding` implements it."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns (texts, dimensions): a vector of length 1 for each text. Blocks.

        Raises Unavailable if a model behind an endpoint does not answer.
        """


class Chunker(Protocol):
    """Interface for splitting documents into chunks; `SandboxedChunker` implements it."""

    def recipe(self, document: Document) -> str:
        """Returns the recipe of a document: the name and version of the chunker for it, such as "markdown-3".

        A stored document that is sent again is chunked again if its recipe has changed.
        """

    async def chunk(self, documents: Sequence[tuple[Document, str]]) -> list[tuple[Chunk, ...] | PointsmanError]:
        """Returns the chunks of each document, in the same order; each document is given with its recipe.

        In the place of a document that cannot be chunked, the list has an InvalidArgument.
        """


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document split into chunks that have no vectors yet. `recipe` names its chunker, and `source` is the place from
    which it was ingested.
    """

    document: Document
    chunks: tuple[Chunk, ...]
    recipe: str
    source: str

    @property
    def texts(self) -> list[str]:
        """Returns the texts to embed, one for each chunk, in the order of the chunks."""
        return [chunk.embedded_text for chunk in self.chunks]

    def with_vectors(self, vectors: Mapping[str, Vectors]) -> EncodedDocument:
        """Returns the document with the vectors of its chunks, ready to be written.

        `vectors` has a vector for each text that `texts` returns, by the text.
        """
        return EncodedDocument(
            document=self.document,
            chunks=self.chunks,
            vectors=np.stack([vectors[text] for text in self.texts]),
            recipe=self.recipe,
            source=self.source,
        )


class DocumentEncoder:
    """Chunks and embeds documents, and embeds queries, with one embedding model."""

    def __init__(self, passages: Embedder, queries: Embedder, chunker: Chunker, pools: ThreadPools) -> None:
        """Takes the model twice: `passages` puts its prefix for passages before each text, `queries` its prefix for
        queries.
        """
        self.fingerprint = passages.fingerprint
        self.dimensions = passages.dimensions
        self._passages, self._queries = passages, queries
        self._chunker = chunker
        self._pools = pools

    def check_model(self, collection: CollectionInfo) -> None:
        """Raises FailedPrecondition ("fingerprint_mismatch") if another model made the collection's vectors."""
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
        """Returns the document; if the caller sent a vector with it, the vector is scaled to length 1.

        Raises InvalidArgument if the vector has wrong dimensions, is not finite or is zero, and FailedPrecondition
        ("fingerprint_mismatch") if another model made it.
        """
        if document.vector is None:
            return document
        unit = self._normalise(document.vector, f"the vector of document {document.id!r}")
        return replace(document, vector=NamedVector(self.fingerprint, unit))

    def query_vector(self, query: Query) -> Vectors:
        """Returns the query's own vector, or else the embedding of its text: (dimensions,), of length 1. Blocks.

        Raises InvalidArgument if the query's vector has wrong dimensions, is not finite or is zero, FailedPrecondition
        ("fingerprint_mismatch") if another model made it, and Unavailable if the model's endpoint fails.
        """
        if query.vector is None:
            return self._queries.embed([query.text]).reshape(self.dimensions)
        return self._normalise(query.vector, "the query's vector")

    async def encode(
        self, documents: Sequence[Document], source: str, find_known: FindKnownVectors, reads: ThreadPool
    ) -> list[EncodedDocument | PointsmanError]:
        """Chunks and embeds documents. Returns the encoded documents in the same order, with an InvalidArgument in the
        place of a document that cannot be chunked.

        A document with its own vector, which must be of length 1 (`with_unit_vector`), becomes a single chunk. Texts
        for which `find_known` returns a vector are not embedded again; `find_known` is called in the threads of
        `reads`. `source` names the place from which the documents come; the results contain it. Raises Unavailable if
        the model's endpoint fails, and what `find_known` raises.
        """
        chunked = await self._chunk([(document, self.recipe(document)) for document in documents], source)
        return await self._add_vectors(chunked, find_known, reads)

    async def encode_again(self, documents: Sequence[tuple[Document, str]]) -> list[EncodedDocument]:
        """Chunks and embeds stored documents, each given with its recipe; reuses no stored vector.

        A document that was stored with a vector of its own (GIVEN_VECTOR_RECIPE) becomes a single chunk, whose text is
        embedded. Raises InvalidArgument if one of the documents cannot be chunked, and Unavailable if the model's
        endpoint fails.
        """
        chunked = await self._chunk(documents, source="")
        return [require(one) for one in await self._add_vectors(chunked, lambda _: {}, self._pools.ingest)]

    async def _chunk(
        self, documents: Sequence[tuple[Document, str]], source: str
    ) -> list[ChunkedDocument | PointsmanError]:
        to_split = [(document, recipe) for document, recipe in documents if recipe != GIVEN_VECTOR_RECIPE]
        split = iter(await self._chunker.chunk(to_split))
        chunked: list[ChunkedDocument | PointsmanError] = []
        for document, recipe in documents:
            chunks = (_single_chunk(document),) if recipe == GIVEN_VECTOR_RECIPE else next(split)
            if isinstance(chunks, PointsmanError):
                chunked.append(chunks)
            else:
                chunked.append(ChunkedDocument(document, chunks, recipe, source))
        return chunked

    async def _add_vectors(
        self, chunked: Sequence[ChunkedDocument | PointsmanError], find_known: FindKnownVectors, reads: ThreadPool
    ) -> list[EncodedDocument | PointsmanError]:
        documents = [one for one in chunked if isinstance(one, ChunkedDocument)]
        known = await reads.run(_map_all, partial(_known_vectors, find_known), documents)
        missing = dict.fromkeys(
            text for one, vectors in zip(documents, known, strict=True) for text in one.texts if text not in vectors
        )
        new = dict(zip(missing, await self._embed(list(missing)), strict=True))
        pairs = [(one, ChainMap(dict(vectors), new)) for one, vectors in zip(documents, known, strict=True)]
        encoded = iter(await self._pools.ingest.run(_map_all, lambda pair: pair[0].with_vectors(pair[1]), pairs))
        return [one if isinstance(one, PointsmanError) else next(encoded) for one in chunked]

    async def _embed(self, texts: Sequence[str]) -> list[Vectors]:
        if not texts:
            return []
        slots = asyncio.Semaphore(MAX_BATCHES_IN_FLIGHT)

        async def embed(batch: Sequence[str]) -> Vectors:
            async with slots:
                return await self._pools.ingest.run(self._passages.embed, batch)

        starts = range(0, len(texts), EMBEDDING_BATCH_SIZE)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(embed(texts[start : start + EMBEDDING_BATCH_SIZE])) for start in starts]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
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


def _known_vectors(find_known: FindKnownVectors, chunked: ChunkedDocument) -> Mapping[str, Vectors]:
    given = chunked.document.vector
    return find_known(chunked.document.id) if given is None else {chunked.texts[0]: given.values}


def require(encoded: EncodedDocument | PointsmanError) -> EncodedDocument:
    """Returns `encoded` if it is a document; raises it if it is a PointsmanError."""
    if isinstance(encoded, PointsmanError):
        raise encoded
    return encoded


def _map_all(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]
