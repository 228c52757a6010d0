"""A sample of the vectors of a collection of documents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VectorSketch:
    """A sample of the vectors of a collection's chunks, at most 2 MiB; the retriever makes it."""

    collection: str
    checksum: str
    """A checksum of all vectors of the collection, 16 hexadecimal digits. Equal checksums mean equal sketches."""
    fingerprint: str
    """Identifies the embedding model that made the vectors."""
    dimensions: int
    vectors: bytes
    """The sampled vectors, (sampled chunks, dimensions), row by row, a signed byte for each value; only the directions
    of rows count."""

    @property
    def name(self) -> str:
        """Returns the collection's name with the beginning of the checksum, for the notes of decisions."""
        return f"{self.collection}@{self.checksum[:8]}"
