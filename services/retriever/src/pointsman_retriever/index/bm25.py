"""BM25 over the chunks in memory: segments that never change, and masks of what is alive in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids
from pointsman_retriever.index import segment
from pointsman_retriever.index.segment import Mask, Segment
from pointsman_retriever.index.terms import Terms

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), and its usual constants.
K1 = 1.2
B = 0.75

# Beyond BM25: a rare word counts more than its information. Chosen on four collections of judged queries, each by the
# other three; see docs/retriever.md.
RARENESS = 1.5

SMALL = 4096  # chunks: greater segments are joined in the background
MANY = 12  # segments

Scores = NDArray[np.float32]


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

    def best(self, text: str, count: int, among: Ids | None) -> Ids:
        """The ids of the best `count` chunks that have a word of the text, ascending; of `among` only, if given."""
        weights = self._weights(text)
        found_ids, found_scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for one, alive in zip(self.segments, self.alive, strict=True):
            scores = self._scores(one, weights)
            mask = alive & (scores > 0.0)
            if among is not None:
                mask &= np.isin(one.ids, among, assume_unique=True)
            rows = np.flatnonzero(mask)
            if len(rows) > count:
                rows = rows[np.argpartition(-scores[rows], count - 1)[:count]]
            found_ids.append(one.ids[rows])
            found_scores.append(scores[rows])
        ids, scores = np.concatenate(found_ids), np.concatenate(found_scores)
        best: Ids = np.sort(ids[np.lexsort((ids, -scores))[:count]])
        return best

    def scores(self, text: str, ids: Ids) -> Scores:
        """(n,), BM25 of the chunks with these ids, 0 where there is none of the words."""
        weights = self._weights(text)
        found = np.zeros(len(ids), np.float32)
        for one, alive in zip(self.segments, self.alive, strict=True):
            places = np.searchsorted(one.ids, ids)
            here = np.flatnonzero((places < len(one.ids)) & (one.ids[np.minimum(places, len(one.ids) - 1)] == ids))
            if len(here):
                rows = places[here]
                found[here] = np.where(alive[rows], self._scores(one, weights)[rows], 0.0)
        return found

    def coverage(self, text: str, ids: Ids) -> float:
        """The greatest share, 0 to 1, of the text's words that one of these chunks has, rare ones counting more.

        A word that the collection has nowhere counts as the rarest.
        """
        total, found = 0.0, np.zeros(len(ids))
        for term, said in self.terms.of_query(text).items():
            number = self.numbers.get(term)
            having = 0 if number is None else self._having(number)
            weight = said * np.log1p((self.count - having + 0.5) / (having + 0.5))
            total += weight
            if having and number is not None:
                found += weight * self._has(number, ids)
        return float(found.max() / total) if total and len(ids) else 0.0

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

    def _weights(self, text: str) -> dict[int, float]:
        """Of the query's terms that the collection has: how rare they are, times how often the query says them."""
        weights = {}
        for term, said in self.terms.of_query(text).items():
            number = self.numbers.get(term)
            if number is not None and (having := self._having(number)):
                rare = np.log1p((self.count - having + 0.5) / (having + 0.5))
                weights[number] = float(said * rare**RARENESS)
        return weights

    def _having(self, term: int) -> int:
        """How many living chunks have it."""
        return sum(
            int(np.count_nonzero(alive[one.postings(term)[0]]))
            for one, alive in zip(self.segments, self.alive, strict=True)
        )

    def _has(self, term: int, ids: Ids) -> Mask:
        return np.isin(ids, np.concatenate([one.ids[one.postings(term)[0]] for one in self.segments]))

    def _scores(self, one: Segment, weights: dict[int, float]) -> Scores:
        """(rows,)."""
        scores = np.zeros(len(one.ids), np.float32)
        mean = self.length / max(self.count, 1)
        for term, weight in weights.items():
            rows, counts = one.postings(term)
            if len(rows):
                saturation = K1 * (1.0 - B + B / mean * one.lengths[rows])
                scores[rows] += (weight * (K1 + 1.0)) * counts / (counts + saturation)
        return scores


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
