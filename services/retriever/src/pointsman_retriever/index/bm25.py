"""BM25 over the chunks in memory: segments that never change, and masks of what is alive in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids
from pointsman_retriever.index import segment
from pointsman_retriever.index.segment import Mask, Postings, Segment
from pointsman_retriever.index.terms import Terms

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), and its usual constants.
K1 = 1.2
B = 0.75

# Beyond BM25: a rare word counts more than its information. Chosen on four collections of judged queries, each by the
# other three; see benchmarks/RESULTS.md.
RARENESS = 1.5

SMALL = 4096  # chunks: greater segments are joined in the background
MANY = 12  # segments

Scores = NDArray[np.float32]

_UNKNOWN = -1  # a term that the collection has never had


@dataclass(frozen=True, slots=True)
class WordIndex:
    """The words as they are at one moment; `after` makes the next, and leaves this one to its readers."""

    terms: Terms
    numbers: dict[str, int]  # of terms; it only grows, and all moments share it
    segments: tuple[Segment, ...] = ()
    alive: tuple[Mask, ...] = field(default=())
    count: int = 0
    length: int = 0  # in words, of all living chunks

    def after(self, removed: Ids, added: Ids, texts: Sequence[str]) -> "WordIndex":
        """`added` are ascending, and greater than all before; for one thread."""
        segments, alive = list(self.segments), list(self.alive)
        count, length = self.count, self.length
        for place, one in enumerate(segments):
            rows = _rows_of(one, alive[place], removed)
            if len(rows):
                alive[place] = alive[place].copy()
                alive[place][rows] = False
                count -= len(rows)
                length -= int(one.lengths[rows].sum())
        if len(added):
            new = segment.make(added, [self.terms.of_text(text) for text in texts], self.numbers)
            segments.append(new)
            alive.append(np.ones(len(added), np.bool_))
            count += len(added)
            length += int(new.lengths.sum())
        following = replace(self, segments=tuple(segments), alive=tuple(alive), count=count, length=length)
        return following._merged()

    def scored(self, text: str) -> "Scored":
        """Every chunk against a query."""
        words = [
            _Word(said, np.log1p((self.count - having + 0.5) / (having + 0.5)), postings)
            for said, having, postings in self._asked(text)
        ]
        mean = self.length / max(self.count, 1)
        parts = [_score(one, words, place, mean) for place, one in enumerate(self.segments)]
        return Scored(
            ids=tuple(one.ids for one in self.segments),
            alive=self.alive,
            scores=tuple(scores for scores, _ in parts),
            shares=tuple(shares for _, shares in parts),
            whole=sum(word.said * word.rareness for word in words),
        )

    @property
    def wants_tidying(self) -> bool:
        rows = sum(map(len, self.alive))
        return rows - self.count > max(rows // 4, SMALL) or len(self.segments) > MANY

    def tidied(self) -> "WordIndex":
        """The same words in one segment, without the deleted ones; takes seconds where they are many."""
        if not self.segments:
            return self
        one = segment.merge(self.segments, self.alive)
        return replace(self, segments=(one,), alive=(np.ones(len(one.ids), np.bool_),))

    def _merged(self) -> "WordIndex":
        """Small neighbours joined, as in a binary counter: each posting is moved a few times only."""
        segments, alive = list(self.segments), list(self.alive)
        while len(segments) > 1 and len(segments[-2].ids) < 2 * len(segments[-1].ids) and len(segments[-2].ids) < SMALL:
            one = segment.merge(segments[-2:], alive[-2:])
            segments[-2:], alive[-2:] = [one], [np.ones(len(one.ids), np.bool_)]
        return replace(self, segments=tuple(segments), alive=tuple(alive))

    def _asked(self, text: str) -> Iterator[tuple[int, int, list[Postings]]]:
        """For each term of a query: how often it says it, how many living chunks have it, and its postings."""
        for term, said in self.terms.of_query(text).items():
            number = self.numbers.get(term, _UNKNOWN)
            postings = [one.postings(number) for one in self.segments]
            having = sum(
                int(np.count_nonzero(alive[rows])) for alive, (rows, _) in zip(self.alive, postings, strict=True)
            )
            yield said, having, postings


@dataclass(frozen=True, slots=True)
class Scored:
    """What each chunk has of a query, by segment."""

    ids: tuple[Ids, ...]
    alive: tuple[Mask, ...]
    scores: tuple[Scores, ...]  # BM25
    shares: tuple[Scores, ...]  # the rareness of the words that it has, summed up
    whole: float  # of all the query's words; one that no chunk has counts as the rarest

    def best(self, count: int, among: Ids | None) -> Ids:
        """The ids of the best `count` chunks that have a word, ascending; of `among` only, where it is given."""
        found_ids, found_scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for ids, alive, scores in zip(self.ids, self.alive, self.scores, strict=True):
            mask = alive & (scores > 0.0)
            if among is not None:
                mask &= np.isin(ids, among, assume_unique=True)
            rows = np.flatnonzero(mask)
            if len(rows) > count:
                rows = rows[np.argpartition(-scores[rows], count - 1)[:count]]
            found_ids.append(ids[rows])
            found_scores.append(scores[rows])
        ids, scores = np.concatenate(found_ids), np.concatenate(found_scores)
        best: Ids = np.sort(ids[np.lexsort((ids, -scores))[:count]])
        return best

    def of(self, ids: Ids) -> Scores:
        """(n,), BM25 of these chunks, which must be there; 0 where there is none of the words."""
        return self._picked(self.scores, ids)

    def coverage(self, ids: Ids) -> Scores:
        """(n,), the share, 0 to 1, of the query's words that each of these chunks has, rare ones counting more."""
        return self._picked(self.shares, ids) / np.float32(self.whole) if self.whole else np.zeros(len(ids), np.float32)

    def _picked(self, parts: Sequence[Scores], ids: Ids) -> Scores:
        found = np.zeros(len(ids), np.float32)
        for held, alive, values in zip(self.ids, self.alive, parts, strict=True):
            rows = np.minimum(np.searchsorted(held, ids), len(held) - 1)
            here = (held[rows] == ids) & alive[rows]
            found[here] = values[rows[here]]
        return found


@dataclass(frozen=True, slots=True)
class _Word:
    said: int  # times, by the query
    rareness: float
    postings: list[Postings]  # by segment


def _score(one: Segment, words: Sequence[_Word], place: int, mean: float) -> tuple[Scores, Scores]:
    """(rows,) each: BM25, and the share before it is divided by the whole."""
    scores, shares = np.zeros(len(one.ids), np.float32), np.zeros(len(one.ids), np.float32)
    for word in words:
        rows, counts = word.postings[place]
        if len(rows):
            saturation = K1 * (1.0 - B + B / mean * one.lengths[rows])
            weight = word.said * word.rareness**RARENESS * (K1 + 1.0)
            scores[rows] += (weight * counts / (counts + saturation)).astype(np.float32)
            shares[rows] += np.float32(word.said * word.rareness)
    return scores, shares


def empty(terms: Terms) -> WordIndex:
    return WordIndex(terms, {})


def _rows_of(one: Segment, alive: Mask, ids: Ids) -> NDArray[np.intp]:
    """The living rows among these ids."""
    if not len(one.ids) or not len(ids):
        return np.empty(0, np.intp)
    rows = np.searchsorted(one.ids, ids)
    rows = np.minimum(rows, len(one.ids) - 1)
    found: NDArray[np.intp] = rows[(one.ids[rows] == ids) & alive[rows]]
    return found
