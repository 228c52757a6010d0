"""The cache of words' vectors: sums are right whichever words were read before, and cached vectors are not computed
again."""

import numpy as np
from pointsman_gateway.classification.scores import Floats
from pointsman_gateway.classification.words import WordRowCache

TEXTS = [["a", "ticket", "to", "Bern"], ["to", "Basel"], ["one", "two", "three", "four", "five"], ["a", "ticket"]]


def row_of(word: str) -> Floats:
    return np.random.default_rng(list(word.encode())).normal(size=7).astype(np.float32)


class CountedRows:
    """Returns the vector of `row_of` for each word, and records the words that it was asked for."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, word: str) -> Floats:
        self.made.append(word)
        return row_of(word)


def summed(words: list[str]) -> list[float]:
    return [float(value) for value in np.add.reduce([row_of(word) for word in words])]


def test_a_texts_vector_is_the_sum_of_its_words() -> None:
    rows = WordRowCache(row_of)
    for words in TEXTS * 2:
        assert rows.sum_of(words).tolist() == summed(words)


def test_the_cache_is_bounded_and_sums_stay_correct() -> None:
    noted = CountedRows()
    rows = WordRowCache(noted, max_words=4)
    for words in TEXTS:  # the third text has more words than the cache holds
        assert rows.sum_of(words).tolist() == summed(words)
    assert noted.made.count("a") > 1  # it was evicted meanwhile


def test_a_cached_word_is_not_looked_up_again() -> None:
    noted = CountedRows()
    rows = WordRowCache(noted)
    rows.sum_of(["a", "ticket"])
    before = list(noted.made)
    rows.sum_of(["ticket", "a"])
    assert noted.made == before


def test_words_added_in_advance_are_not_looked_up_again_and_leave_room_for_others() -> None:
    noted = CountedRows()
    rows = WordRowCache(noted, max_words=6)
    rows.add(["a", "ticket", "to", "Bern"])
    before = list(noted.made)
    rows.sum_of(["a", "ticket", "to"])
    assert noted.made == before
    assert rows.sum_of(["Bern", "one", "two"]).tolist() == summed(["Bern", "one", "two"])
    rows.sum_of(["a", "ticket", "to"])
    assert noted.made.count("a") == before.count("a")
