"""A BM25 word index in memory: immutable posting lists in segments, and a mask of the rows that are not deleted.

A row is a chunk. A posting says how often a row contains a term.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids
from pointsman_retriever.index.append_only_array import AppendOnlyArray
from pointsman_retriever.index.term_analyzer import TermAnalyzer

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009). Both values are within its
# usual range and were chosen together with the fusion; see benchmarks/RESULTS.md.
K1 = 0.9
B = 0.8

# Each term's weight is its IDF to this power. Plain BM25 has 1; more lets rare words count for more.
IDF_EXPONENT = 1.5

MAX_EAGER_MERGE_ROWS = 4096  # larger segments are merged by compaction, in the background
MAX_SEGMENTS = 12

Mask = NDArray[np.bool_]
Ints = NDArray[np.int32]
Scores = NDArray[np.float64]
Postings = tuple[int, Ints, Ints]  # position of the term in the query, rows, count in each row

_UNKNOWN_TERM = -1  # the number of a term that the collection has never contained


@dataclass(frozen=True, slots=True)
class Segment:
    """The posting lists of consecutive rows (chunks): which rows contain each term, and how often. Immutable.

    The rows and counts of the term `terms[i]` are the entries of `rows` and `counts` from `starts[i]` to `starts[i +
    1]`.
    """

    size: int  # rows it was built from
    terms: Ints  # ascending, unique
    starts: NDArray[np.int64]  # of each term's postings, and the end of the last
    rows: Ints  # ascending within a term
    counts: Ints

    def postings(self, terms: Ints) -> Iterator[Postings]:
        """Yields (index in `terms`, rows, counts) for each number in `terms` whose term occurs in the segment."""
        if not len(self.terms):
            return
        places = np.minimum(self.terms.searchsorted(terms), len(self.terms) - 1)
        here = np.flatnonzero(self.terms[places] == terms)
        first, last = self.starts[places[here]].tolist(), self.starts[places[here] + 1].tolist()
        for term, start, end in zip(here.tolist(), first, last, strict=True):
            yield term, self.rows[start:end], self.counts[start:end]


def build_segment(first: int, texts: Sequence[Mapping[str, int]], numbers: MutableMapping[str, int]) -> Segment:
    """Builds the posting lists of consecutive rows, of which `first` is the number of the first one.

    `texts` has the term counts of each row. `numbers` maps terms to their numbers; new terms are added to it.
    """
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    terms = np.fromiter(
        (numbers.setdefault(term, len(numbers)) for text in texts for term in text), np.int32, int(sizes.sum())
    )
    counts = np.fromiter((count for text in texts for count in text.values()), np.int32, len(terms))
    rows = np.repeat(np.arange(first, first + len(texts), dtype=np.int32), sizes)
    return _sort_postings(len(texts), terms, rows, counts)


def merge_segments(segments: Sequence[Segment], alive: Mask) -> Segment:
    """Merges segments of adjacent rows into one segment, and leaves out the postings of deleted rows.

    `alive` has a flag for each row: False if it is deleted.
    """
    terms = np.concatenate([np.repeat(segment.terms, np.diff(segment.starts)) for segment in segments])
    rows = np.concatenate([segment.rows for segment in segments])
    counts = np.concatenate([segment.counts for segment in segments])
    kept = alive[rows]
    return _sort_postings(sum(segment.size for segment in segments), terms[kept], rows[kept], counts[kept])


def _sort_postings(size: int, terms: Ints, rows: Ints, counts: Ints) -> Segment:
    """Builds a segment of `size` rows from postings, which are in ascending order of rows."""
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


@dataclass(frozen=True, slots=True)
class WordIndex:
    """An immutable snapshot of a BM25 word index. `with_changes` makes the next snapshot; readers may go on using the
    earlier one.

    Snapshots share arrays to which rows are only appended. `alive` has a flag for each row: whether it belongs to this
    snapshot.
    """

    analyzer: TermAnalyzer
    term_numbers: dict[str, int]  # shared by all snapshots; entries are only added
    ids: AppendOnlyArray  # chunk id of each row, ascending
    lengths: AppendOnlyArray  # in words
    alive: Mask  # one flag for each row of this snapshot
    segments: tuple[Segment, ...] = ()  # in the order of their rows
    count: int = 0
    length: int = 0  # in words, of all rows that are alive

    def with_changes(self, removed: Ids, added: Ids, texts: Sequence[str]) -> "WordIndex":
        """Returns the next snapshot, without the ids `removed` and with `added`, whose texts are `texts`.

        Called by one thread at a time, on the latest snapshot only. `added` is ascending, above all earlier ids;
        unknown ids in `removed` are ignored.
        """
        first = len(self.alive)
        alive = np.concatenate((self.alive, np.ones(len(added), np.bool_)))
        gone = self._find_rows(removed)
        alive[gone] = False
        lost = int(self.lengths.first(first)[gone].sum())
        following = replace(self, alive=alive, count=self.count - len(gone), length=self.length - lost)
        return following._append(first, added, texts)._merge_small_segments() if len(added) else following

    def score(self, query: str) -> "WordScores":
        """Returns the BM25 score of every row for a query, and the share of the query's terms that each row contains.

        Unlike in plain BM25, the inverse document frequency (IDF) of each term is raised to the power IDF_EXPONENT.
        """
        # The postings of all terms are processed together: NumPy releases the GIL in each long step, and if other
        # threads are busy every step waits to get it back.
        terms = self.analyzer.query_terms(query)
        repeats = np.fromiter(terms.values(), np.float64, len(terms))
        which, rows, counts = self._postings(terms)
        frequency = np.bincount(which, minlength=len(terms))
        idf = inverse_frequencies(self.count, frequency)
        share = repeats * idf
        weight = repeats * idf**IDF_EXPONENT * (K1 + 1.0)
        row_count = len(self.alive)
        return WordScores(
            ids=self._ids,
            scores=_sum_by_row(rows, weight[which] * counts / (counts + self._saturations(rows)), row_count),
            shares=_sum_by_row(rows, share[which], row_count),
            total_share=float(share.sum()),
        )

    @property
    def needs_compaction(self) -> bool:
        rows = len(self.alive)
        return rows - self.count > max(rows // 4, MAX_EAGER_MERGE_ROWS) or len(self.segments) > MAX_SEGMENTS

    def compacted(self) -> "WordIndex":
        """Returns an index of the same chunks in one segment, without deleted rows; takes seconds for a large index."""
        if not self.segments:
            return empty_word_index(self.analyzer)
        rows = np.flatnonzero(self.alive)
        new_rows = np.cumsum(self.alive, dtype=np.int32) - 1
        merged = merge_segments(self.segments, self.alive)
        ids, lengths = AppendOnlyArray(np.int64), AppendOnlyArray(np.int32)
        ids.append(0, self._ids[rows])
        lengths.append(0, self.lengths.first(len(self.alive))[rows])
        segment = replace(merged, size=len(rows), rows=new_rows[merged.rows])
        return replace(self, ids=ids, lengths=lengths, alive=np.ones(len(rows), np.bool_), segments=(segment,))

    @property
    def _ids(self) -> Ids:
        return self.ids.first(len(self.alive))

    def _append(self, first: int, added: Ids, texts: Sequence[str]) -> "WordIndex":
        terms = [self.analyzer.document_terms(text) for text in texts]
        lengths = np.fromiter((sum(one.values()) for one in terms), np.int32, len(terms))
        self.ids.append(first, added)
        self.lengths.append(first, lengths)
        return replace(
            self,
            segments=(*self.segments, build_segment(first, terms, self.term_numbers)),
            count=self.count + len(added),
            length=self.length + int(lengths.sum()),
        )

    def _merge_small_segments(self) -> "WordIndex":
        """Merges the last two segments as long as the earlier one has less than twice the rows of the later one.

        Because the sizes of segments grow, each posting is copied a few times only. An earlier segment of
        `MAX_EAGER_MERGE_ROWS` or more is left alone.
        """
        segments = list(self.segments)
        while len(segments) > 1 and segments[-2].size < min(2 * segments[-1].size, MAX_EAGER_MERGE_ROWS):
            segments[-2:] = [merge_segments(segments[-2:], self.alive)]
        return replace(self, segments=tuple(segments))

    def _postings(self, terms: Iterable[str]) -> tuple[Ints, Ints, Ints]:
        """Returns the postings of the terms in rows that are not deleted, as three arrays: position of the term in
        `terms`, row, count.
        """
        numbers = np.array([self.term_numbers.get(term, _UNKNOWN_TERM) for term in terms], np.int32)
        found = [postings for segment in self.segments for postings in segment.postings(numbers)]
        if not found:
            nothing = np.empty(0, np.int32)
            return nothing, nothing, nothing
        positions, row_lists, count_lists = zip(*found, strict=True)
        which = np.repeat(np.array(positions, np.int32), [len(rows) for rows in row_lists])
        all_rows, all_counts = np.concatenate(row_lists), np.concatenate(count_lists)
        if self.count == len(self.alive):
            return which, all_rows, all_counts
        live = self.alive[all_rows]
        return which[live], all_rows[live], all_counts[live]

    def _saturations(self, rows: Ints) -> Scores:
        """Returns the part of BM25's denominator that depends on the row's length, for each of the `rows`."""
        return saturations(self.lengths.first(len(self.alive))[rows], self.length, self.count)

    def _find_rows(self, ids: Ids) -> NDArray[np.intp]:
        """Returns the rows with these ids that are not deleted; ignores ids without such a row."""
        stored = self._ids
        if not len(stored) or not len(ids):
            return np.empty(0, np.intp)
        rows = np.minimum(np.searchsorted(stored, ids), len(stored) - 1)
        found: NDArray[np.intp] = rows[(stored[rows] == ids) & self.alive[rows]]
        return found


@dataclass(frozen=True, slots=True)
class WordScores:
    """The BM25 scores of all rows (chunks) of a word index for one query; 0 for deleted rows.

    `shares` has, for each row, the sum of the inverse document frequencies (IDF) of the query's terms that the row
    contains; `total_share` is the sum for all terms of the query.
    """

    ids: Ids  # ascending
    scores: Scores  # BM25
    shares: Scores  # sum of the IDFs of the query terms that the chunk contains
    total_share: float  # of all query terms; an unknown term counts as the rarest

    def best(self, count: int, among: Ids | None) -> Ids:
        """Returns the ids of at most `count` chunks: those with the best scores above 0, ordered by id, not by score.

        Only ids in `among` are considered, unless it is None.
        """
        rows = np.flatnonzero(self.scores)
        if among is not None:
            rows = rows[np.isin(self.ids[rows], among, assume_unique=True)]
        if len(rows) > count:
            scores = self.scores[rows]
            threshold = np.partition(scores, -count)[-count]
            rows = rows[scores >= threshold]  # more than `count` if several have the same score
            rows = rows[np.lexsort((rows, -self.scores[rows]))[:count]]
        best: Ids = np.sort(self.ids[rows])
        return best

    def scores_of(self, ids: Ids) -> Scores:
        """Returns the BM25 scores (ids,) of chunks, which must exist; 0 for a chunk without any of the query's
        terms.
        """
        return self._select(self.scores, ids)

    def coverage(self, ids: Ids) -> Scores:
        """Returns the share of the query's terms that each chunk contains, (ids,), 0 to 1; all `ids` must exist.

        Terms are weighted by their inverse document frequency (IDF).
        """
        return self._select(self.shares, ids) / self.total_share if self.total_share else np.zeros(len(ids))

    def _select(self, values: Scores, ids: Ids) -> Scores:
        found: Scores = values[np.searchsorted(self.ids, ids)] if len(ids) else np.empty(0)
        return found


def empty_word_index(analyzer: TermAnalyzer) -> WordIndex:
    return WordIndex(analyzer, {}, AppendOnlyArray(np.int64), AppendOnlyArray(np.int32), np.empty(0, np.bool_))


def inverse_frequencies(chunks: int, frequencies: NDArray[np.int64]) -> Scores:
    """Returns the inverse document frequency (IDF) of each term, (terms,).

    `frequencies` has the number of chunks that contain each term, and `chunks` is the number of all chunks.
    """
    return np.asarray(np.log1p((chunks - frequencies + 0.5) / (frequencies + 0.5)), np.float64)


def saturations(lengths: Ints, words: int, chunks: int) -> Scores:
    """Returns the part of BM25's denominator that depends on a chunk's length, for each of `lengths` (words).

    `chunks` and `words` are the number of chunks of the collection and of all their words.
    """
    return np.asarray(K1 * (1.0 - B + B / (max(words, 1) / max(chunks, 1)) * lengths), np.float64)


def _sum_by_row(rows: Ints, values: Scores, row_count: int) -> Scores:
    return np.bincount(rows, values, row_count).astype(np.float64, copy=False)
