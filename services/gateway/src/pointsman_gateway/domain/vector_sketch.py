"""A sample of the vectors of a collection of documents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VectorSketch:
    """A sample of the vectors of one collection of documents, at most 2 MiB, which the retriever makes and the gateway
    reads.
    """

    collection: str
    checksum: str
    """A checksum of all vectors of the collection, 16 hexadecimal digits. Equal checksums mean equal sketches."""
    fingerprint: str
    """Identifies the embedding model that made the vectors."""
    dimensions: int
    vectors: bytes
    """A matrix of signed bytes, stored row by row, with one row for each sampled chunk of a document and one column for
    each dimension. Only the direction of a row has a meaning, not its length.
    """

    @property
    def name(self) -> str:
        """Returns the collection's name and the first 8 digits of the checksum, such as "faq@1f3a90bc", for the notes
        of decisions.
        """
        return f"{self.collection}@{self.checksum[:8]}"
