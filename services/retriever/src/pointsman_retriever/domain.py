"""The retriever's nouns."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.filters import Filter

Vectors = NDArray[np.float32]  # one vector, or a row for each
Ids = NDArray[np.int64]  # of chunks; an id is never given twice


DEFAULT_TENANT = "default"

# Of a tenant and of a collection. Neither a dot nor a slash: a name is one folder's name, and leads nowhere else.
NAME_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, order=True)
class CollectionId:
    """A tenant's collection; nothing is ever looked up by the name alone."""

    tenant: str
    name: str

    def __str__(self) -> str:
        return self.name if self.tenant == DEFAULT_TENANT else f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a collection may hold; 0 is no limit."""

    documents: int = 0
    chunks: int = 0
    bytes: int = 0


UNLIMITED = Quota()


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    fingerprint: str  # of the embedding model that made its vectors
    dimensions: int
    documents: int = 0
    chunks: int = 0
    version: int = 0  # counts up with each change
    tenant: str = DEFAULT_TENANT
    bytes: int = 0  # of documents and vectors
    checksum: int = 0  # of all vectors: digests.of_vectors
    quota: Quota = UNLIMITED
    search: str = "{}"  # settings of the search, in JSON

    @property
    def id(self) -> CollectionId:
        return CollectionId(self.tenant, self.name)


@dataclass(frozen=True, slots=True)
class NamedVector:
    """A vector with the name of the model that made it."""

    fingerprint: str
    values: Vectors


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "text/markdown"  # what `text` is; decides how it is cut
    vector: NamedVector | None = None  # of the whole text, where the caller has it already: then it is one chunk


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document as it is sent: its text, or a file that has it inside."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, str]
    media_type: str
    content: bytes
    vector: NamedVector | None = None


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
class EncodedDocument:
    """A document ready to be written."""

    document: Document
    chunks: tuple[Chunk, ...]
    vectors: Vectors  # (chunks, dimensions), unit length
    recipe: str = ""  # how the chunks were made
    source: str = ""  # what it is kept in step with

    @property
    def bytes(self) -> int:
        """What it counts for in a quota: its texts, and its vectors."""
        document = self.document
        entries = [part for entry in document.metadata.items() for part in entry]
        return sum(len(part.encode()) for part in (document.id, document.title, document.text, *entries)) + int(
            self.vectors.nbytes
        )


@dataclass(frozen=True, slots=True)
class UpsertResult:
    documents: int
    chunks: int  # made of those that were not there as they are
    version: int
    unchanged: int = 0  # of the documents


@dataclass(frozen=True, slots=True)
class DeleteResult:
    documents: int
    version: int


@dataclass(frozen=True, slots=True)
class IndexedChunks:
    """What is held in memory of some chunks."""

    ids: Ids  # ascending
    documents: Ids  # each chunk's document, by a number
    texts: tuple[str, ...]  # that are searched by word
    metadata: tuple[Mapping[str, str], ...]
    vectors: Vectors  # (chunks, dimensions)


@dataclass(frozen=True, slots=True)
class ChunkDelta:
    """What a change did to the chunks, for those who hold copies of them."""

    removed: Ids
    added: IndexedChunks


class FusionMethod(Enum):
    """Of fusing both sides' rankings."""

    CONVEX = "convex"
    RRF = "rrf"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a search ranks, and what it shows of a hit."""

    top_k: int = 0  # passages; 0: DEFAULT_TOP_K of limits.py
    dense_weight: float | None = None  # 0 (words only) to 1 (meaning only); None: the collection's own
    method: FusionMethod | None = None  # None: the collection's own
    per_document: int = 0  # passages of one document at most; 0: any number
    diversity: float = 0.0  # 0 to 1: so much a passage loses for being like one that is before it
    neighbours: int = 0  # chunks before and after each passage, of its document
    rerank: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    collection: CollectionId
    text: str
    vector: NamedVector | None = None  # of the text, where the caller has it already
    filter: Filter | None = None
    wishes: SearchOptions = SearchOptions()


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a score came about: the parts sum up to a total, and 1 / (1 + e^-total) is the score of a convex fusion."""

    dense_rank: int  # 1 for the best, among the candidates
    sparse_rank: int  # 0 where it has none of the words
    dense_weight: float
    dense_part: float
    sparse_part: float
    support_part: float  # for being like other good candidates
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class RankedChunk:
    """A chunk's place in an answer."""

    chunk: int
    score: float  # fused, 0 to 1
    dense: float  # cosine
    sparse: float  # BM25; 0 where it has none of the words
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A chunk that stands beside a hit in its document."""

    text: str
    start: int
    end: int


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
    explanation: Explanation
    before: tuple[Neighbour, ...] = ()  # in the document's order
    after: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, slots=True)
class Relevance:
    """Whether anything was found that deserves to be shown."""

    relevant: bool
    dense: float  # the greatest cosine, of all candidates
    coverage: float  # 0 to 1: the greatest share of the query's words, by their rareness, in one candidate


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    passages: tuple[Passage, ...]  # best first
    tokens: tuple[int, ...]  # of each passage's text, by the embedding model's count
    version: int  # of the collection that was searched
    seconds: float
    relevance: Relevance


class DocumentState(Enum):
    WRITTEN = "written"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DocumentOutcome:
    """What became of one document of an ingest."""

    id: str
    state: DocumentState
    chunks: int = 0  # new ones
    code: str = ""  # of the error
    message: str = ""


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What became of an ingest."""

    written: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    chunks: int = 0  # new ones
    version: int = 0


@dataclass(frozen=True, slots=True)
class IngestEnd:
    """The end of an ingest's documents."""

    remove_missing: bool
