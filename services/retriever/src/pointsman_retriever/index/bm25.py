"""BM25 over the chunks in memory: postings that never change, and a mask of the rows that are alive."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids
from pointsman_retriever.index import segment
from pointsman_retriever.index.arena import AppendOnlyArray
from pointsman_retriever.index.segment import Ints, Mask, Segment
from pointsman_retriever.index.terms import TermAnalyzer

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009): within what is usual there,
# and chosen with the fusion; see benchmarks/RESULTS.md.
K1 = 0.9
B = 0.8

# Beyond BM25: a rare word counts more than its information.
IDF_EXPONENT = 1.5

MAX_EAGER_MERGE_ROWS = 4096  # chunks: greater segments are joined in the background
MAX_SEGMENTS = 12  # segments

Scores = NDArray[np.float64]

_UNKNOWN_TERM = -1  # a term that the collection has never had


@dataclass(frozen=True, slots=True)
class WordIndex:
    """The words as they are at one moment; `after` makes the next, and leaves this one to its readers.

    Rows are shared between the moments and only ever appended to; `alive` says which of them a moment has.
    """

    terms: TermAnalyzer
    numbers: dict[str, int]  # of terms; it only grows, and all moments share it
    ids: AppendOnlyArray  # of the rows' chunks, ascending
    lengths: AppendOnlyArray  # in words
    alive: Mask  # its length is the rows of this moment
    segments: tuple[Segment, ...] = ()  # neighbours, in the order of their rows
    count: int = 0
    length: int = 0  # in words, of all living chunks

    def after(self, removed: Ids, added: Ids, texts: Sequence[str]) -> "WordIndex":
        """`added` are ascending, and greater than all before; for one thread."""
        first = len(self.alive)
        alive = np.concatenate((self.alive, np.ones(len(added), np.bool_)))
        gone = self._rows_of(removed)
        alive[gone] = False
        lost = int(self.lengths.first(first)[gone].sum())
        following = replace(self, alive=alive, count=self.count - len(gone), length=self.length - lost)
        return following._with(first, added, texts)._merged() if len(added) else following

    def scored(self, text: str) -> "WordScores":
        """Every chunk against a query.

        In few steps over the postings of all words together: numpy gives the interpreter away in each that is long,
        and while others write it is long until it has it back.
        """
        asked = self.terms.of_query(text)
        said = np.fromiter(asked.values(), np.float64, len(asked))
        which, rows, counts = self._postings(asked)
        having = np.bincount(which, minlength=len(asked))
        rareness = np.log1p((self.count - having + 0.5) / (having + 0.5))
        share = said * rareness
        saturation = self._saturations(rows)
        weight = said * rareness**IDF_EXPONENT * (K1 + 1.0)
        held = len(self.alive)
        return WordScores(
            ids=self._ids,
            scores=_sum_by_row(rows, weight[which] * counts / (counts + saturation), held),
            shares=_sum_by_row(rows, share[which], held),
            whole=float(share.sum()),
        )

    @property
    def wants_tidying(self) -> bool:
        rows = len(self.alive)
        return rows - self.count > max(rows // 4, MAX_EAGER_MERGE_ROWS) or len(self.segments) > MAX_SEGMENTS

    def tidied(self) -> "WordIndex":
        """The same words in one segment, without the deleted ones; takes seconds where they are many."""
        if not self.segments:
            return empty_word_index(self.terms)
        rows = np.flatnonzero(self.alive)
        places = np.cumsum(self.alive, dtype=np.int32) - 1
        one = segment.renumber_rows(segment.merge_segments(self.segments, self.alive), places)
        ids, lengths = AppendOnlyArray(np.int64), AppendOnlyArray(np.int32)
        ids.append(0, self._ids[rows])
        lengths.append(0, self.lengths.first(len(self.alive))[rows])
        alive = np.ones(len(rows), np.bool_)
        return replace(self, ids=ids, lengths=lengths, alive=alive, segments=(replace(one, size=len(rows)),))

    @property
    def _ids(self) -> Ids:
        return self.ids.first(len(self.alive))

    def _with(self, first: int, added: Ids, texts: Sequence[str]) -> "WordIndex":
        terms = [self.terms.of_text(text) for text in texts]
        lengths = np.fromiter((sum(one.values()) for one in terms), np.int32, len(terms))
        self.ids.append(first, added)
        self.lengths.append(first, lengths)
        return replace(
            self,
            segments=(*self.segments, segment.build_segment(first, terms, self.numbers)),
            count=self.count + len(added),
            length=self.length + int(lengths.sum()),
        )

    def _merged(self) -> "WordIndex":
        """Small neighbours joined, as in a binary counter: each posting is moved a few times only."""
        segments = list(self.segments)
        while len(segments) > 1 and segments[-2].size < min(2 * segments[-1].size, MAX_EAGER_MERGE_ROWS):
            segments[-2:] = [segment.merge_segments(segments[-2:], self.alive)]
        return replace(self, segments=tuple(segments))

    def _postings(self, asked: Iterable[str]) -> tuple[Ints, Ints, Ints]:
        """Of all terms, and of the living rows: which term, the row, and how often it has it."""
        numbers = np.array([self.numbers.get(term, _UNKNOWN_TERM) for term in asked], np.int32)
        found = [one for held in self.segments for one in held.postings(numbers)]
        if not found:
            nothing = np.empty(0, np.int32)
            return nothing, nothing, nothing
        terms, rows, counts = zip(*found, strict=True)
        which = np.repeat(np.array(terms, np.int32), [len(some) for some in rows])
        every = np.concatenate(rows)
        if self.count == len(self.alive):
            return which, every, np.concatenate(counts)
        living = self.alive[every]
        return which[living], every[living], np.concatenate(counts)[living]

    def _saturations(self, rows: Ints) -> Scores:
        mean = max(self.length, 1) / max(self.count, 1)
        found: Scores = K1 * (1.0 - B + B / mean * self.lengths.first(len(self.alive))[rows])
        return found

    def _rows_of(self, ids: Ids) -> NDArray[np.intp]:
        """The living rows among these ids."""
        held = self._ids
        if not len(held) or not len(ids):
            return np.empty(0, np.intp)
        rows = np.minimum(np.searchsorted(held, ids), len(held) - 1)
        found: NDArray[np.intp] = rows[(held[rows] == ids) & self.alive[rows]]
        return found


@dataclass(frozen=True, slots=True)
class WordScores:
    """What each chunk has of a query; rows that are deleted have nothing."""

    ids: Ids  # ascending
    scores: Scores  # BM25
    shares: Scores  # the rareness of the words that it has, summed up
    whole: float  # of all the query's words; one that no chunk has counts as the rarest

    def best(self, count: int, among: Ids | None) -> Ids:
        """The ids of the best `count` chunks that have a word, ascending; of `among` only, where it is given."""
        rows = np.flatnonzero(self.scores)
        if among is not None:
            rows = rows[np.isin(self.ids[rows], among, assume_unique=True)]
        if len(rows) > count:
            scores = self.scores[rows]
            least = np.partition(scores, -count)[-count]
            rows = rows[scores >= least]  # a few more, where there are equals
            rows = rows[np.lexsort((rows, -self.scores[rows]))[:count]]
        best: Ids = np.sort(self.ids[rows])
        return best

    def of(self, ids: Ids) -> Scores:
        """(n,), BM25 of these chunks, which must be there; 0 where there is none of the words."""
        return self._picked(self.scores, ids)

    def coverage(self, ids: Ids) -> Scores:
        """(n,), the share, 0 to 1, of the query's words that each of these chunks has, rare ones counting more."""
        return self._picked(self.shares, ids) / self.whole if self.whole else np.zeros(len(ids))

    def _picked(self, values: Scores, ids: Ids) -> Scores:
        found: Scores = values[np.searchsorted(self.ids, ids)] if len(ids) else np.empty(0)
        return found


def empty_word_index(terms: TermAnalyzer) -> WordIndex:
    return WordIndex(terms, {}, AppendOnlyArray(np.int64), AppendOnlyArray(np.int32), np.empty(0, np.bool_))


def _sum_by_row(rows: Ints, values: Scores, held: int) -> Scores:
    return np.bincount(rows, values, held).astype(np.float64, copy=False)
