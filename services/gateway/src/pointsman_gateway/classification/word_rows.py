"""The rows of words that were read of late, below one another in one array: those of a text add up in one step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from threading import Lock

import numpy as np

from pointsman_gateway.classification.softmax_regression import Floats

MOST_WORDS = 8192
"""Whose rows are kept: 13 MB with 150 tasks."""
NOT_KEPT = -1


@dataclass(frozen=True, slots=True)
class _Kept:
    numbers: dict[str, int]
    rows: Floats


class WordRows:
    """Safe to share between threads."""

    def __init__(self, row_of: Callable[[str], Floats], most: int = MOST_WORDS) -> None:
        """`row_of` makes a word's row; all are of one length."""
        self._row_of = row_of
        self._most = most
        self._kept = _Kept({}, np.empty((0, 0), np.float32))
        self._learning = Lock()

    def sum_of(self, words: Sequence[str]) -> Floats:
        """Of words that are different; at least one."""
        kept = self._kept
        numbers = list(map(kept.numbers.get, words, repeat(NOT_KEPT)))
        if NOT_KEPT in numbers:
            kept = self._with(words)
            numbers = [kept.numbers[word] for word in words]
        return np.asarray(np.add.reduce(kept.rows.take(numbers, axis=0)))

    def _with(self, words: Sequence[str]) -> _Kept:
        """What is kept once these are among it. Whoever reads another does so undisturbed."""
        with self._learning:
            kept = self._kept
            new = [word for word in words if word not in kept.numbers]
            if len(kept.numbers) + len(new) > len(kept.rows):
                new = list(words)
                kept = self._kept = _Kept({}, self._room_for(new))
            for word in new:
                number = len(kept.numbers)
                kept.rows[number] = self._row_of(word)
                kept.numbers[word] = number
            return kept

    def _room_for(self, words: Sequence[str]) -> Floats:
        row = self._row_of(words[0])
        return np.empty((max(self._most, len(words)), len(row)), row.dtype)
