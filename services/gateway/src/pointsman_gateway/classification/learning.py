"""One stage learns: its head and its prototypes from some of the examples, tried on the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pointsman_gateway.classification.examples import FOLDS, Examples
from pointsman_gateway.classification.lexicon import Corpus, Rows
from pointsman_gateway.classification.prototypes import prototypes, prototypes_of_tasks
from pointsman_gateway.classification.softmax_regression import Block, Dense, Floats, Head, fit_head

INVERSE_PENALTY = 30
"""scikit-learn's C. In the mean of seven small sets: 94.1 % right with 3, 94.3 with 10, 94.6 with 30, 94.4 with 100."""

TOLERANCE = 0.01
"""Three times tighter, CLINC150's validation part comes out the same within 0.1 points."""

MOST_FOREIGN = 128
"""Texts that belong to no task are kept as so many typical ones at most."""

Reader = Callable[[Rows], Sequence[Block]]


class Features(Protocol):
    def known_from(self, rows: Rows) -> Reader:
        """How texts are read by one who knows only these."""
        ...


class DenseFeatures:
    """The vectors alone."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors

    def known_from(self, rows: Rows) -> Reader:
        return lambda wanted: [Dense(self._vectors[wanted])]


class LexicalFeatures:
    """The vectors, the words' pieces and the pairs of words."""

    def __init__(self, vectors: Floats, corpus: Corpus) -> None:
        self._vectors, self._corpus = vectors, corpus

    def known_from(self, rows: Rows) -> Reader:
        rarity = self._corpus.rarity(rows)
        return lambda wanted: [Dense(self._vectors[wanted]), *self._corpus.blocks(wanted, rarity)]


@dataclass(frozen=True, slots=True)
class Learned:
    head: Head
    prototypes: Floats


@dataclass(frozen=True, slots=True)
class Trial:
    """What a stage makes of every text when it has not learned from it."""

    logits: Floats
    """(texts, tasks)"""
    nearest: Floats
    """(texts,): the cosine of the nearest prototype."""
    foreign: Floats
    """(texts,): the cosine of the nearest other text that belongs to no task; 0 where there is none."""


class Learner:
    def __init__(self, data: Examples, features: Features, vectors: Floats, seed: int) -> None:
        self._data, self._features, self._vectors, self._seed = data, features, vectors, seed

    def learn(self, rows: Rows) -> Learned:
        return self._learn(rows, self._features.known_from(rows))

    def tried(self, done: Callable[[], None]) -> Trial:
        """Learns with each fold held out; calls `done` after each."""
        count = len(self._data.y)
        logits = np.zeros((count, len(self._data.tasks)), np.float32)
        nearest = np.zeros(count, np.float32)
        for fold in range(FOLDS):
            held_out = self._data.folds == fold
            tried, rows = np.flatnonzero(held_out), np.flatnonzero(~held_out & self._data.inside)
            if len(tried):
                reader = self._features.known_from(rows)
                learned = self._learn(rows, reader)
                logits[tried] = learned.head.logits(reader(tried))
                nearest[tried] = (self._vectors[tried] @ learned.prototypes.T).max(axis=1)
            done()
        return Trial(logits, nearest, self._nearest_foreign())

    def foreign(self) -> Floats:
        """(texts, dimensions): typical of what belongs to no task."""
        outside = self._vectors[~self._data.inside]
        return prototypes(outside, MOST_FOREIGN, np.random.default_rng(self._seed)) if len(outside) else outside

    def _learn(self, rows: Rows, reader: Reader) -> Learned:
        y, tasks = self._data.y[rows], len(self._data.tasks)
        head = fit_head(reader(rows), y, tasks, INVERSE_PENALTY, TOLERANCE)
        return Learned(head, prototypes_of_tasks(self._vectors[rows], y, tasks, self._seed))

    def _nearest_foreign(self) -> Floats:
        outside = np.flatnonzero(~self._data.inside)
        if not len(outside):
            return np.zeros(len(self._vectors), np.float32)
        cosines = self._vectors @ self._vectors[outside].T
        cosines[outside, np.arange(len(outside))] = -1
        return np.asarray(cosines.max(axis=1))
