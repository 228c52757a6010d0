"""The words of some chunks: for each term the rows that have it, and how often."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Ints = NDArray[np.int32]
Postings = tuple[int, Ints, Ints]  # which of the terms that were asked for, the rows, and how often each has it


@dataclass(frozen=True, slots=True)
class Segment:
    """Never changed."""

    size: int  # rows that it was made of
    terms: Ints  # ascending, each once
    starts: NDArray[np.int64]  # of each term's postings, and their end
    rows: Ints  # ascending within a term
    counts: Ints

    def postings(self, terms: Ints) -> Iterator[Postings]:
        """Of those that are here."""
        if not len(self.terms):
            return
        places = np.minimum(self.terms.searchsorted(terms), len(self.terms) - 1)
        here = np.flatnonzero(self.terms[places] == terms)
        first, last = self.starts[places[here]].tolist(), self.starts[places[here] + 1].tolist()
        for which, start, end in zip(here.tolist(), first, last, strict=True):
            yield which, self.rows[start:end], self.counts[start:end]


def build_segment(first: int, texts: Sequence[Mapping[str, int]], numbers: MutableMapping[str, int]) -> Segment:
    """`texts` are the terms with their counts of the rows from `first` on; a new term gets the next number."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    terms = np.fromiter(
        (numbers.setdefault(term, len(numbers)) for text in texts for term in text), np.int32, int(sizes.sum())
    )
    counts = np.fromiter((count for text in texts for count in text.values()), np.int32, len(terms))
    rows = np.repeat(np.arange(first, first + len(texts), dtype=np.int32), sizes)
    return _sort_postings(len(texts), terms, rows, counts)


def merge_segments(segments: Sequence[Segment], alive: Mask) -> Segment:
    """The living rows of neighbouring segments."""
    terms = np.concatenate([np.repeat(segment.terms, np.diff(segment.starts)) for segment in segments])
    rows = np.concatenate([segment.rows for segment in segments])
    counts = np.concatenate([segment.counts for segment in segments])
    kept = alive[rows]
    return _sort_postings(sum(segment.size for segment in segments), terms[kept], rows[kept], counts[kept])


def renumber_rows(segment: Segment, places: Ints) -> Segment:
    """The same with other numbers for its rows, in the same order."""
    return Segment(segment.size, segment.terms, segment.starts, places[segment.rows], segment.counts)


def _sort_postings(size: int, terms: Ints, rows: Ints, counts: Ints) -> Segment:
    """Rows come ascending already, segment by segment, and a stable sort leaves them so within a term."""
    order = np.argsort(terms, kind="stable")
    terms = terms[order]
    first = np.flatnonzero(np.diff(terms, prepend=-1))
    return Segment(
        size=size,
        terms=terms[first],
        starts=np.append(first, len(terms)).astype(np.int64),
        rows=rows[order],
        counts=counts[order],
    )
