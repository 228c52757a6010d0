"""The lexical features of a text: its words, their character n-grams, and pairs of adjacent words.

Also caches the classifier's feature rows (numbers) of recently used words.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from threading import Lock

import numpy as np

from pointsman_gateway.classification.scores import Floats

_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")

PIECE_LENGTHS = (3, 4)

MAX_WORD_CHARACTERS = 40
"""Only this many characters at the beginning of a word are used for its n-grams."""

EDGE = ""
"""Stands for the beginning or the end of a text in a word pair."""

MAX_CACHED_WORDS = 8192
"""Maximum number of words whose feature rows are cached; with 150 tasks, the rows take 13 MB."""
NOT_CACHED = -1


def words_of(text: str) -> list[str]:
    """Splits a text into lower-case words of letters and digits. Each other character except white space is a word,
    too.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _WORD.findall(text.lower())


def unique_words(words: Iterable[str]) -> list[str]:
    """Returns each word once, in the order of first occurrence, so that repeating a word does not raise its weight."""
    return list(dict.fromkeys(words))


def pieces_of(word: str) -> list[str]:
    """Returns the word, and then its distinct character n-grams of lengths 3 and 4, sorted.

    The n-grams are those of "<", the word's first `MAX_WORD_CHARACTERS` characters, and ">". They relate a word that is
    in no example to similar words that are.
    """
    marked = f"<{word[:MAX_WORD_CHARACTERS]}>"
    runs = {marked[i : i + n] for n in PIECE_LENGTHS for i in range(len(marked) - n + 1)}
    return [word, *sorted(runs)]


def pairs_of(words: list[str]) -> dict[tuple[str, str], None]:
    """Returns the pairs of adjacent words, in order and each once, as the keys of a dict whose values are None.

    The first word also forms a pair with `EDGE` before it, and the last word with `EDGE` after it.
    """
    return dict.fromkeys(zip([EDGE, *words], [*words, EDGE], strict=True))


@dataclass(frozen=True, slots=True)
class _Snapshot:
    numbers: dict[str, int]
    rows: Floats


class WordRowCache:
    """Caches the feature rows (arrays of numbers) of recently used words in one array, so that NumPy sums the rows of a
    text in one step.

    A full cache is emptied. It is thread-safe: a writer holds a lock, the array is append-only, and a full array is
    replaced by a new one, so the snapshot that a reader holds stays valid.
    """

    def __init__(self, row_of: Callable[[str], Floats], max_words: int = MAX_CACHED_WORDS) -> None:
        """Caches the results of `row_of`, which returns the feature row of a word; all rows have the same length."""
        self._row_of = row_of
        self._max_words = max_words
        self._snapshot = _Snapshot({}, np.empty((0, 0), np.float32))
        self._write_lock = Lock()

    def sum_of(self, words: Sequence[str]) -> Floats:
        """Returns the sum of the rows of `words` as a new array, which the caller may change.

        There must be at least one word, and no word twice.
        """
        snapshot = self._snapshot
        numbers = list(map(snapshot.numbers.get, words, repeat(NOT_CACHED)))
        if NOT_CACHED in numbers:
            snapshot = self._with(words)
            numbers = [snapshot.numbers[word] for word in words]
        return np.asarray(np.add.reduce(snapshot.rows.take(numbers, axis=0)))

    def add(self, words: Iterable[str]) -> None:
        """Computes and caches the feature rows of words before they are needed.

        Ignores words beyond those that fill half of the cache.
        """
        self._with(list(words)[: self._max_words // 2])

    def _with(self, words: Sequence[str]) -> _Snapshot:
        with self._write_lock:
            snapshot = self._snapshot
            new = [word for word in words if word not in snapshot.numbers]
            if len(snapshot.numbers) + len(new) > len(snapshot.rows):
                new = list(words)
                snapshot = self._snapshot = _Snapshot({}, self._room_for(new))
            for word in new:
                number = len(snapshot.numbers)
                snapshot.rows[number] = self._row_of(word)
                snapshot.numbers[word] = number
            return snapshot

    def _room_for(self, words: Sequence[str]) -> Floats:
        row = self._row_of(words[0])
        return np.empty((max(self._max_words, len(words)), len(row)), row.dtype)
