"""Encodes rows in the binary format of PostgreSQL's COPY, which is faster to write and read than text.

https://www.postgresql.org/docs/current/sql-copy.html describes the format. Vectors and tsvectors are encoded as the
functions vector_recv and tsvectorrecv read them.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence

from pointsman_retriever.domain import Vectors

MAX_COUNTED = 255  # positions of a term in a tsvector

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_POSITIONS = [struct.pack(f">{count + 1}H", count, *range(1, count + 1)) for count in range(MAX_COUNTED + 1)]


def to_copy(rows: Iterable[Sequence[bytes]]) -> bytes:
    """Returns the bytes of a binary COPY of `rows`; each value must be encoded in its column's binary format."""
    parts = [_HEADER]
    for row in rows:
        parts.append(struct.pack(">h", len(row)))
        for value in row:
            parts += (struct.pack(">i", len(value)), value)
    return b"".join((*parts, _TRAILER))


def from_int(value: int) -> bytes:
    return struct.pack(">i", value)


def from_bigint(value: int) -> bytes:
    return struct.pack(">q", value)


def from_vector(vector: Vectors) -> bytes:
    return struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()


def from_terms(counts: Mapping[str, int]) -> bytes:
    """Encodes term counts as a binary tsvector, in which a term that occurs n times has the positions 1 to n."""
    parts = [struct.pack(">i", len(counts))]
    for term in sorted(counts):
        parts += (term.encode(), b"\0", _POSITIONS[min(counts[term], MAX_COUNTED)])
    return b"".join(parts)
