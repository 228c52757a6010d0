"""Samples the vectors of a collection. From the sample a gateway estimates whether a request is about the collection's
documents.
"""

from dataclasses import dataclass

import numpy as np

from pointsman_retriever.domain import CollectionInfo, Vectors
from pointsman_retriever.store.store import Store, read_collection

MAX_VECTORS = 2048
MAX_BYTES = 2 * 1024 * 1024
"""Maximum bytes of the vectors in a sample. A sample has fewer vectors if they have more than 1,024 dimensions."""

_MAX_VALUE = 127

# The hash is Knuth's multiplicative one. It depends on the id alone, so that a change of some chunks changes only their
# part of the sample. The ids are read from an index: the table with the texts and vectors of all chunks is larger.
_SELECT_SAMPLE = """
    SELECT vector FROM chunks WHERE id IN (
        SELECT id FROM chunks ORDER BY (id * 2654435761) % 4294967296, id LIMIT ?
    ) ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class VectorSketch:
    """A sample of the vectors of a collection's chunks, each rounded to signed bytes."""

    info: CollectionInfo
    """The collection's state when the sample was taken."""
    vectors: bytes
    """The sampled vectors as signed bytes, of shape (sampled chunks, dimensions), row by row.

    Each row is a vector scaled so that its largest absolute value is 127.
    """


def read_vector_sketch(store: Store) -> VectorSketch:
    """Returns a sample of the vectors of one version of a collection.

    The sample has the vectors of the chunks with the smallest hashes of their ids: at most `MAX_VECTORS` vectors and
    `MAX_BYTES` bytes. So collections with equal ids and vectors have equal samples. Raises storage errors
    (`translate_errors`).
    """
    with store.connections.reader() as reader:
        reader.execute("BEGIN")
        info = read_collection(reader, store.id)
        rows = reader.execute(_SELECT_SAMPLE, (sample_size(info.dimensions),)).fetchall()
    vectors = np.frombuffer(b"".join(vector for (vector,) in rows), "<f4").reshape(-1, info.dimensions)
    return sketch_vectors(info, vectors)


def sample_size(dimensions: int) -> int:
    """Returns the maximum number of vectors in a sample, given how many dimensions each has."""
    return min(MAX_VECTORS, MAX_BYTES // dimensions)


def sketch_vectors(info: CollectionInfo, vectors: Vectors) -> VectorSketch:
    """Rounds sampled `vectors` (sampled, dimensions) to signed bytes, and returns them with the collection's state
    `info`.

    Each vector is scaled so that its largest absolute value is 127.
    """
    largest = np.abs(vectors).max(axis=1, initial=1e-12, keepdims=True)
    return VectorSketch(info, np.rint(vectors / largest * _MAX_VALUE).astype(np.int8).tobytes())
