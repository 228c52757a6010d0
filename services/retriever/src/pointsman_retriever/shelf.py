"""One collection at work: its index in memory, kept in step with its rows on the disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pointsman_servicekit.errors import NotFound

from pointsman_retriever.domain import Collection, Deleted, Ids, MadeDocument, Passage, Vectors, Written
from pointsman_retriever.gate import Gate
from pointsman_retriever.index.fusion import fuse
from pointsman_retriever.index.words import to_match
from pointsman_retriever.store.sqlite import Store

POOL = 100  # candidates from each side; as many as the greatest top_k


class Index(Protocol):
    """Vectors by chunk, nearest by inner product."""

    def put(self, ids: Ids, vectors: Vectors) -> None: ...

    def remove(self, ids: Ids) -> None: ...

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids: ...

    def similarities(self, vector: Vectors, ids: Ids) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class Question:
    """A query with everything settled."""

    text: str
    vector: Vectors
    filter: Mapping[str, str]
    dense_weight: float
    top_k: int


class Shelf:
    """A search sees the collection before a change or after it, on both sides alike, and never between.

    All methods block. Changes come from one thread, searches from any.
    """

    def __init__(self, number: int, collection: Collection, store: Store, index: Index) -> None:
        self.collection = collection
        self._number = number
        self._store = store
        self._index = index
        self._gate = Gate()
        self._dropped = False

    def load(self) -> None:
        """Fills the empty index from the disk."""
        for ids, vectors in self._store.vectors(self._number, self.collection.dimensions):
            self._index.put(ids, vectors)

    def search(self, question: Question) -> tuple[tuple[Passage, ...], int]:
        """The passages, best first, and the version of the collection that has them."""
        with self._gate.looking():
            if self._dropped:
                raise unknown_collection(self.collection.name)
            words = self._by_words(question)
            candidates = np.union1d(self._by_meaning(question), np.array(list(words), np.int64))
            cosines = self._index.similarities(question.vector, candidates)
            dense = dict(zip(candidates.tolist(), cosines.tolist(), strict=True))
            ranked = fuse(dense, words, question.dense_weight, question.top_k)
            return self._store.passages(ranked), self.collection.version

    def put(self, made: Sequence[MadeDocument]) -> Written:
        """Adds or replaces the documents, all or none; on the disk first."""
        with self._store.changing(self._number) as change:
            for document in made:
                change.put(document)
            with self._gate.changing():
                self.collection = change.commit()
                self._index.remove(change.removed_ids)
                self._index.put(change.added_ids, change.added_vectors)
        return Written(len(made), len(change.added), self.collection.version)

    def remove(self, document_ids: Sequence[str]) -> Deleted:
        """Those that are not there are passed over; where none is there, nothing has changed."""
        with self._store.changing(self._number) as change:
            deleted = sum(change.remove(document_id) for document_id in document_ids)
            if deleted:
                with self._gate.changing():
                    self.collection = change.commit()
                    self._index.remove(change.removed_ids)
        return Deleted(deleted, self.collection.version)

    def drop(self) -> None:
        with self._gate.changing():
            self._store.drop(self._number)
            self._dropped = True

    def _by_words(self, question: Question) -> dict[int, float]:
        match = to_match(question.text)
        if match is None or question.dense_weight == 1.0:
            return {}
        return self._store.by_words(self._number, match, question.filter, POOL)

    def _by_meaning(self, question: Question) -> Ids:
        if question.dense_weight == 0.0:
            return np.empty(0, np.int64)
        among = self._store.having(self._number, question.filter) if question.filter else None
        return self._index.nearest(question.vector, POOL, among)


def unknown_collection(name: str) -> NotFound:
    return NotFound(
        f"there is no collection {name!r}; CreateCollection makes one", code="unknown_collection", param="collection"
    )
