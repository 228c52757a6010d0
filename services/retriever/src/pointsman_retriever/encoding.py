"""Texts to vectors, in the threads that are there for it; and the guard that vectors of two models never meet."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_retriever.domain import Chunk, Collection, Document, MadeDocument, Query, Vectors
from pointsman_retriever.limits import check_vector
from pointsman_retriever.workers import Crew

CHUNKS_AT_ONCE = 16  # between two batches a cancelled upsert ends, and another one's batch has its turn


class Embedder(Protocol):
    @property
    def fingerprint(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...


class Chunker(Protocol):
    def chunk(self, document: Document) -> tuple[Chunk, ...]: ...


class Encoder:
    def __init__(self, embedder: Embedder, chunker: Chunker, crew: Crew) -> None:
        self.fingerprint = embedder.fingerprint
        self.dimensions = embedder.dimensions
        self._embedder = embedder
        self._chunker = chunker
        self._crew = crew

    def check_made_here(self, collection: Collection) -> None:
        """Raises FailedPrecondition where the collection's vectors are another model's."""
        if collection.fingerprint != self.fingerprint:
            raise FailedPrecondition(
                f"collection {collection.name!r} was built with embedding model {collection.fingerprint}, and this "
                f"retriever runs {self.fingerprint}; delete it and ingest again, or run the model that built it",
                code="fingerprint_mismatch",
                param="collection",
            )

    async def encode_document(self, document: Document) -> MadeDocument:
        chunks = await self._crew.ingesting.run(self._chunker.chunk, document)
        batches = [chunks[start : start + CHUNKS_AT_ONCE] for start in range(0, len(chunks), CHUNKS_AT_ONCE)]
        vectors = [
            await self._crew.ingesting.run(self._embedder.embed, [chunk.in_context for chunk in batch])
            for batch in batches
        ]
        return MadeDocument(document, chunks, np.concatenate(vectors))

    async def encode_query(self, query: Query) -> Vectors:
        """(dimensions,), unit length: the vector that came with the query, else its text's."""
        if query.vector is None:
            vectors = await self._crew.searching.run(self._embedder.embed, [query.text])
            return vectors.reshape(self.dimensions)
        if query.vector.fingerprint != self.fingerprint:
            raise FailedPrecondition(
                f"the query's vector was made by embedding model {query.vector.fingerprint!r}, and this retriever runs "
                f"{self.fingerprint!r}; send the text without a vector, or run the same model on both sides",
                code="fingerprint_mismatch",
                param="vector",
            )
        check_vector(query.vector.values, self.dimensions)
        exact = query.vector.values.astype(np.float64)  # a square of a great float32 is not finite
        unit: Vectors = (exact / np.linalg.norm(exact)).astype(np.float32)
        return unit
