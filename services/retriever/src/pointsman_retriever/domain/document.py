"""The classes of a document and its chunks at each step of processing, from the upload to the index."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]  # one vector, or one per row
    Ids = NDArray[np.int64]  # chunk ids; an id is never reused
else:
    Vectors = Ids = Any  # without NumPy the sandbox starts faster and is smaller


@dataclass(frozen=True, slots=True)
class NamedVector:
    """A vector (dimensions,), and the fingerprint of the embedding model that made it."""

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
    """A document as the client sent it: with its text, or with a file, whose bytes are in `content`.

    `media_type` is the type of the file, or of the text if there is no file, in lower case, without parameters.
    """

    id: str
    title: str
    text: str
    metadata: Mapping[str, str]
    media_type: str
    content: bytes
    vector: NamedVector | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document. `text` is the document's text from offset `start` to `end` (exclusive), in characters."""

    text: str
    start: int
    end: int
    context: str  # the document's title and the headings above the chunk, without those inside the chunk

    @property
    def embedded_text(self) -> str:
        """Returns the text that is embedded and indexed for word search: `context`, if there is any, and the chunk's
        text.
        """
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A document, its chunks, and a vector for each chunk: all that a collection stores of the document."""

    document: Document
    chunks: tuple[Chunk, ...]
    vectors: Vectors  # (chunks, dimensions), unit length
    recipe: str = ""  # name and version of the chunker
    source: str = ""  # the ingest source that the document belongs to, or ''

    @property
    def bytes(self) -> int:
        """Returns the size that counts towards the quota: id, title, text and metadata in UTF-8, and the vectors, in
        bytes.
        """
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
    """Several chunks in the form that the in-memory indexes take: parallel columns with one entry for each chunk.
    `vectors` is (chunks, dimensions).

    `documents` has the database row number of each chunk's document.
    """

    ids: Ids  # ascending
    documents: Ids  # row number of each chunk's document
    texts: tuple[str, ...]  # for word search
    metadata: tuple[Mapping[str, str], ...]
    vectors: Vectors  # (chunks, dimensions)


@dataclass(frozen=True, slots=True)
class ChunkDelta:
    """The effect of a change of a collection on its indexes: the ids of the removed chunks, and the added chunks."""

    removed: Ids
    added: IndexedChunks
