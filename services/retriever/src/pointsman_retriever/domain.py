"""Value objects of the retriever: collections, documents, chunks, queries and results."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from pointsman_retriever.filters import Filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]  # one vector, or one per row
    Ids = NDArray[np.int64]  # chunk ids; an id is never reused
else:
    Vectors = Ids = Any  # without NumPy the sandbox starts faster and is smaller


DEFAULT_TENANT = "default"

# For tenants and collections. No dots and no slashes, because a name is also the name of a folder.
NAME_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, order=True)
class CollectionId:
    """Identifies a collection by tenant and name; no lookup uses the name alone."""

    tenant: str
    name: str

    def __str__(self) -> str:
        return self.name if self.tenant == DEFAULT_TENANT else f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Quota:
    """Upper limits for a collection; 0 means unlimited."""

    documents: int = 0
    chunks: int = 0
    bytes: int = 0


UNLIMITED = Quota()


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection's counts and settings at one version."""

    name: str
    fingerprint: str  # of the embedding model that made its vectors
    dimensions: int
    documents: int = 0
    chunks: int = 0
    version: int = 0  # incremented by each change
    tenant: str = DEFAULT_TENANT
    bytes: int = 0  # of documents and vectors
    checksum: int = 0  # of all vectors: digests.checksum_vectors
    quota: Quota = UNLIMITED
    search_settings: str = "{}"  # a SearchSettings in JSON

    @property
    def id(self) -> CollectionId:
        return CollectionId(self.tenant, self.name)


@dataclass(frozen=True, slots=True)
class NamedVector:
    """A vector and the fingerprint of the model that made it."""

    fingerprint: str
    values: Vectors


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "text/markdown"  # of `text`; selects the chunker
    vector: NamedVector | None = None  # of the whole text, if the caller computed it; the document is then one chunk


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document as the client sent it: with its text, or with a file that contains the text."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, str]
    media_type: str
    content: bytes
    vector: NamedVector | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document's text: `text[start:end]`, offsets in characters."""

    text: str
    start: int
    end: int
    context: str  # the document's title and the headings above the chunk, without those inside the chunk

    @property
    def embedded_text(self) -> str:
        """Returns the text that is embedded and that word search indexes: the chunk with its titles."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A document with its chunks and vectors, ready to be written."""

    document: Document
    chunks: tuple[Chunk, ...]
    vectors: Vectors  # (chunks, dimensions), unit length
    recipe: str = ""  # name and version of the chunker
    source: str = ""  # the ingest source that the document belongs to, or ''

    @property
    def bytes(self) -> int:
        """Returns the size in bytes that counts towards a quota: texts, metadata and vectors."""
        document = self.document
        entries = [part for entry in document.metadata.items() for part in entry]
        return sum(len(part.encode()) for part in (document.id, document.title, document.text, *entries)) + int(
            self.vectors.nbytes
        )


@dataclass(frozen=True, slots=True)
class UpsertResult:
    documents: int
    chunks: int  # newly written
    version: int
    unchanged: int = 0  # of the documents


@dataclass(frozen=True, slots=True)
class DeleteResult:
    documents: int
    version: int


@dataclass(frozen=True, slots=True)
class IndexedChunks:
    """Columns of several chunks, as the in-memory indexes need them: ids, documents, texts, metadata, vectors."""

    ids: Ids  # ascending
    documents: Ids  # row number of each chunk's document
    texts: tuple[str, ...]  # for word search
    metadata: tuple[Mapping[str, str], ...]
    vectors: Vectors  # (chunks, dimensions)


@dataclass(frozen=True, slots=True)
class ChunkDelta:
    """The chunks that a change of a collection has removed and added."""

    removed: Ids
    added: IndexedChunks


class FusionMethod(Enum):
    """How the dense ranking (by meaning) and the sparse ranking (by words) are combined."""

    CONVEX = "convex"
    RRF = "rrf"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a search ranks and what it returns with each passage."""

    top_k: int = 0  # passages; 0 means limits.DEFAULT_TOP_K
    dense_weight: float | None = None  # 0 (words only) to 1 (meaning only); None: the collection's setting
    method: FusionMethod | None = None  # None: the collection's setting
    per_document: int = 0  # maximum passages of one document; 0 means unlimited
    diversity: float = 0.0  # 0 to 1: penalty for similarity to a passage ranked higher
    neighbours: int = 0  # chunks of the same document to return before and after each passage
    rerank: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    collection: CollectionId
    text: str
    vector: NamedVector | None = None  # of the text, if the caller computed it
    filter: Filter | None = None
    options: SearchOptions = SearchOptions()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The parts of a score. They add up to a total; a convex fusion's score is 1 / (1 + e^-total)."""

    dense_rank: int  # among the candidates, 1 for the best
    sparse_rank: int  # 0 if the chunk contains none of the query's words
    dense_weight: float
    dense_part: float
    sparse_part: float
    support_part: float  # from the candidates most similar to this one
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class RankedChunk:
    chunk: int
    score: float  # fused, 0 to 1
    dense: float  # cosine
    sparse: float  # BM25; 0 if the chunk contains none of the query's words
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A chunk directly before or after a passage in its document."""

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
    before: tuple[Neighbour, ...] = ()  # in document order
    after: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, slots=True)
class Relevance:
    """Whether a search found anything that answers the query, and the two measurements behind that verdict."""

    relevant: bool
    best_dense: float  # the greatest cosine among the candidates
    best_coverage: float  # 0 to 1: the greatest IDF-weighted share of the query's words in one candidate


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    passages: tuple[Passage, ...]  # best first
    tokens: tuple[int, ...]  # of each passage's text, counted by the embedding model's tokenizer
    version: int  # of the collection that was searched
    seconds: float
    relevance: Relevance


class DocumentState(Enum):
    WRITTEN = "written"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DocumentOutcome:
    """What an ingest did with one document: its state, its new chunks, and an error's code and message."""

    id: str
    state: DocumentState
    chunks: int = 0  # newly written
    code: str = ""  # of the error
    message: str = ""


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """How many documents and chunks an ingest has written, skipped, refused and removed."""

    written: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    chunks: int = 0  # newly written
    version: int = 0


@dataclass(frozen=True, slots=True)
class IngestEnd:
    """The message with which a client ends an ingest stream."""

    remove_missing: bool
