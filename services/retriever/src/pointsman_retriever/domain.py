"""The retriever's nouns; they know the standard library and numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # one vector, or a row for each
Ids = NDArray[np.int64]  # of chunks; an id is never given twice


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    fingerprint: str  # of the embedding model that made its vectors
    dimensions: int
    documents: int = 0
    chunks: int = 0
    version: int = 0  # counts up with each change


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document's text: `text[start:end]`, in characters."""

    text: str
    start: int
    end: int
    context: str  # the document's title and the headings above the chunk that it does not hold itself

    @property
    def in_context(self) -> str:
        """What is embedded, and searched by word."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class MadeDocument:
    """A document ready to be written."""

    document: Document
    chunks: tuple[Chunk, ...]
    vectors: Vectors  # (chunks, dimensions), unit length


@dataclass(frozen=True, slots=True)
class Written:
    documents: int
    chunks: int
    version: int


@dataclass(frozen=True, slots=True)
class Deleted:
    documents: int
    version: int


@dataclass(frozen=True, slots=True)
class NamedVector:
    """A vector with the name of the model that made it."""

    fingerprint: str
    values: Vectors


@dataclass(frozen=True, slots=True)
class Query:
    collection: str
    text: str
    top_k: int = 0  # 0: DEFAULT_TOP_K of limits.py
    vector: NamedVector | None = None  # of the text, where the caller has it already
    filter: Mapping[str, str] = field(default_factory=dict)
    dense_weight: float | None = None  # not given: DENSE_WEIGHT of index/fusion.py


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk's place in an answer."""

    chunk: int
    score: float  # fused, 0 to 1
    dense: float  # cosine
    sparse: float  # BM25; 0 where the words did not find it


@dataclass(frozen=True, slots=True)
class Passage:
    document_id: str
    title: str
    text: str
    start: int
    end: int
    metadata: Mapping[str, str]
    score: float
    dense_score: float
    sparse_score: float


@dataclass(frozen=True, slots=True)
class Answer:
    passages: tuple[Passage, ...]  # best first
    version: int  # of the collection that was searched
    seconds: float
