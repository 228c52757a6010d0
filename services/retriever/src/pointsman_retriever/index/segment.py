"""The words of some chunks: for each term the rows that have it, and how often."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids

Mask = NDArray[np.bool_]
Ints = NDArray[np.int32]
Postings = tuple[Ints, Ints]  # rows, and how often each has the term


@dataclass(frozen=True, slots=True)
class Segment:
    """Never changed; a row is a chunk's place in `ids`."""

    ids: Ids  # ascending
    lengths: Ints  # of the rows, in words
    terms: Ints  # ascending, each once
    starts: NDArray[np.int64]  # of each term's postings, and their end
    rows: Ints  # ascending within a term
    counts: Ints

    def postings(self, term: int) -> Postings:
        place = int(self.terms.searchsorted(term))
        if place == len(self.terms) or self.terms[place] != term:
            return self.rows[:0], self.counts[:0]
        span = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return self.rows[span], self.counts[span]


def make(ids: Ids, texts: Sequence[Mapping[str, int]], numbers: MutableMapping[str, int]) -> Segment:
    """`texts` are each chunk's terms with their counts; a term that is new gets the next number."""
    lengths = np.fromiter((sum(terms.values()) for terms in texts), np.int32, len(texts))
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    terms = np.fromiter(
        (numbers.setdefault(term, len(numbers)) for text in texts for term in text), np.int32, int(sizes.sum())
    )
    counts = np.fromiter((count for text in texts for count in text.values()), np.int32, len(terms))
    rows = np.repeat(np.arange(len(texts), dtype=np.int32), sizes)
    return _sorted(ids, lengths, terms, rows, counts)


def merge(segments: Sequence[Segment], alive: Sequence[Mask]) -> Segment:
    """The living rows of neighbouring segments, in their order."""
    ids = np.concatenate([segment.ids[mask] for segment, mask in zip(segments, alive, strict=True)])
    lengths = np.concatenate([segment.lengths[mask] for segment, mask in zip(segments, alive, strict=True)])
    terms, rows, counts, before = [], [], [], 0
    for segment, mask in zip(segments, alive, strict=True):
        kept = mask[segment.rows]
        places = np.cumsum(mask, dtype=np.int32) - 1 + before
        terms.append(np.repeat(segment.terms, np.diff(segment.starts))[kept])
        rows.append(places[segment.rows[kept]])
        counts.append(segment.counts[kept])
        before += int(np.count_nonzero(mask))
    return _sorted(ids, lengths, np.concatenate(terms), np.concatenate(rows).astype(np.int32), np.concatenate(counts))


def _sorted(ids: Ids, lengths: Ints, terms: Ints, rows: Ints, counts: Ints) -> Segment:
    """Rows come ascending already, and a stable sort leaves them so within a term."""
    order = np.argsort(terms, kind="stable")
    terms = terms[order]
    first = np.flatnonzero(np.diff(terms, prepend=-1))
    return Segment(
        ids=ids,
        lengths=lengths,
        terms=terms[first],
        starts=np.append(first, len(terms)).astype(np.int64),
        rows=rows[order],
        counts=counts[order],
    )
