"""Hashes of documents and chunks, and a checksum over all vectors of a collection."""

import hashlib
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids, Vectors

_ROWS_PER_BLOCK = 4096
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash_document(title: str, text: str, metadata: Mapping[str, str]) -> bytes:
    """Returns a 16-byte hash of a document's title, text and metadata; it does not depend on the order of the
    metadata.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (title, text, *(part for entry in sorted(metadata.items()) for part in entry)):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()


def hash_chunk(embedded_text: str, vector: bytes) -> bytes:
    """Returns an 8-byte hash of a chunk's embedded text and the bytes of its vector, by which damage on disk is
    detected.
    """
    digest = hashlib.blake2b(vector, digest_size=8)
    digest.update(embedded_text.encode())
    return digest.digest()


def checksum_vectors(ids: Ids, vectors: Vectors) -> int:
    """Returns a 64-bit checksum of `ids` (rows,) and their `vectors` (rows, dimensions). The order of the rows does not
    matter.

    The XOR of the checksums of disjoint parts is the checksum of the whole. So after a change the checksum can be
    updated without reading all vectors.

    The checksum is a multilinear hash of each row (Lemire and Kaser, "Strongly universal string hashing is fast",
    2014), finished as in splitmix64. It detects accidental damage, not manipulation.
    """
    whole = np.uint64(0)
    keys = _row_keys(vectors.shape[1])
    for start in range(0, len(ids), _ROWS_PER_BLOCK):
        words = np.ascontiguousarray(vectors[start : start + _ROWS_PER_BLOCK], "<f4").view("<u4").astype(np.uint64)
        rows = (words * keys).sum(axis=1, dtype=np.uint64)
        rows ^= ids[start : start + _ROWS_PER_BLOCK].astype(np.uint64) * _ODD
        whole ^= np.bitwise_xor.reduce(_splitmix64_finish(rows))
    return int(whole)


@cache
def _row_keys(count: int) -> NDArray[np.uint64]:
    return _splitmix64_finish(np.arange(1, count + 1, dtype=np.uint64) * _ODD) | np.uint64(1)


def _splitmix64_finish(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    rows = (rows ^ (rows >> np.uint64(30))) * _MIX[0]
    rows = (rows ^ (rows >> np.uint64(27))) * _MIX[1]
    return rows ^ (rows >> np.uint64(31))
