"""Sketches of collections of documents: summaries of under 800 bytes that show which share of documents has changed.

A sketch holds the k smallest of the documents' hashes (bottom-k; A. Broder, "On the resemblance and containment of
documents", 1997), where k is `MAX_HASHES`. Up to k documents the comparison is exact; with more, the share is an
estimate with a standard deviation of about 1 / (2 sqrt(k)), or 6 percentage points.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest

MANIFEST_KEY_PREFIX = "documents."
"""The prefix of the keys under which an adapter's manifest stores sketches of collections of documents.

The collection's name follows the prefix. The sketch shows the documents at the time when the adapter was trained.
"""

MAX_HASHES = 64

_BYTES = 6

_MAX_DIGITS = 18
_FORM = re.compile(rf"[0-9]{{1,{_MAX_DIGITS}}}:(?:[0-9a-f]{{{2 * _BYTES}}})*")


@dataclass(frozen=True, slots=True)
class Sketch:
    documents: int
    smallest: tuple[int, ...]
    """The smallest hashes of the documents' ids and contents, at most `MAX_HASHES`, in ascending order."""

    def __str__(self) -> str:
        """Serializes the sketch as NUMBER:HASHES, in at most 790 characters; `parse_sketch` reads it."""
        return f"{self.documents}:" + "".join(f"{one:0{2 * _BYTES}x}" for one in self.smallest)


def sketch_of(documents: Iterable[tuple[str, bytes]]) -> Sketch:
    """Makes a sketch of documents, by which later changes of the documents can be estimated.

    A document is given as its id and a digest of its content. A document that is given twice with the same digest
    counts once.
    """
    hashes = {_hash(name, digest) for name, digest in documents}
    return Sketch(len(hashes), tuple(nsmallest(MAX_HASHES, hashes)))


def parse_sketch(text: str) -> Sketch:
    """Parses a sketch that `str` has serialized.

    Raises ValueError if the text has another form, or does not have one hash for each document, up to `MAX_HASHES`.
    """
    if not _FORM.fullmatch(text):
        raise ValueError(f"'{text[:40]}' is no sketch of documents")
    documents, _, digits = text.partition(":")
    size = 2 * _BYTES
    smallest = tuple(int(digits[at : at + size], 16) for at in range(0, len(digits), size))
    if len(smallest) != min(int(documents), MAX_HASHES):
        raise ValueError(f"'{text[:40]}' is no sketch of documents: it has {len(smallest)} hashes")
    return Sketch(int(documents), smallest)


def changed_share(then: Sketch, now: Sketch) -> float:
    """Returns the share (0 to 1) of the larger collection's documents that the smaller one does not have with equal
    content.

    The share is an estimate if a collection has more than `MAX_HASHES` documents. Returns 0 if both are empty.
    """
    most = max(then.documents, now.documents)
    if not most:
        return 0.0
    both = set(then.smallest) | set(now.smallest)
    seen = sorted(both)[:MAX_HASHES] if max(then.documents, now.documents) > MAX_HASHES else sorted(both)
    shared = set(then.smallest) & set(now.smallest)
    alike = sum(one in shared for one in seen) / len(seen)
    same = (
        alike * (then.documents + now.documents) / (1 + alike)
    )  # |A and B|, from the resemblance |A and B| / |A or B|
    return max(0.0, 1 - same / most)


def _hash(name: str, digest: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode() + b"\0" + digest, digest_size=_BYTES).digest())
