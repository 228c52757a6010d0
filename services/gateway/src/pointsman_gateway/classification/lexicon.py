"""Which pieces of words and which pairs of words are known, and how rare they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

from pointsman_gateway.classification.fitted import Lexicon
from pointsman_gateway.classification.softmax_regression import Floats
from pointsman_gateway.classification.words import different, pairs_of, pieces_of, words_of

LEAST_TEXTS = 2
"""A piece or a pair that only one text has says nothing about any other."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Rarity:
    """Inverse document frequencies; 0 for what is not known."""

    pieces: Floats
    pairs: Floats


class Corpus:
    """The words of all examples, for learning from some of them and trying on the others.

    A text's lexical features are those of its different words added up and those of its pairs of words, divided by
    the root of the sum of the squared lengths of what was added. So a word's share in any decision is a row that can
    be computed once; dividing by the length of the sum would be TF-IDF to the letter, and no better.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        words = [words_of(text) for text in texts]
        vocabulary = _numbered(word for row in words for word in row)
        pieces = {word: pieces_of(word) for word in vocabulary}
        self._piece_numbers = _numbered(piece for row in pieces.values() for piece in row)
        self._pair_numbers = _numbered(pair for row in words for pair in pairs_of(row))
        self._words = _counts([[vocabulary[word] for word in different(row)] for row in words], len(vocabulary))
        self._of_words = _counts(
            [[self._piece_numbers[p] for p in pieces[word]] for word in vocabulary], len(self._piece_numbers)
        )
        self._pairs = _counts(
            [[self._pair_numbers[pair] for pair in pairs_of(row)] for row in words], len(self._pair_numbers)
        )
        self._has_piece = (self._words @ self._of_words).astype(bool)
        self._has_pair = self._pairs.astype(bool)

    def rarity(self, rows: Rows) -> Rarity:
        """As these texts have it."""
        return Rarity(_rarity(self._has_piece[rows]), _rarity(self._has_pair[rows]))

    def lexicon(self, rarity: Rarity, piece_weights: Floats, pair_weights: Floats) -> Lexicon:
        """What is known, with a head's weights (known pieces or pairs, tasks) over it."""
        pieces, pairs = np.flatnonzero(rarity.pieces), np.flatnonzero(rarity.pairs)
        names, pair_names = list(self._piece_numbers), list(self._pair_numbers)
        return Lexicon(
            pieces=tuple(names[number] for number in pieces),
            pairs=tuple(" ".join(pair_names[number]) for number in pairs),
            piece_rarity=rarity.pieces[pieces],
            pair_rarity=rarity.pairs[pairs],
            piece_weights=piece_weights,
            pair_weights=pair_weights,
        )

    def blocks(self, rows: Rows, rarity: Rarity) -> tuple["Pieces", "Pairs"]:
        """The known features of these texts."""
        of_words = _known(self._of_words, rarity.pieces)
        pairs = _known(self._pairs[rows], rarity.pairs)
        words = self._words[rows]
        squared = words @ _squared_lengths(of_words) + _squared_lengths(pairs)
        scale = sparse.diags_array((1 / np.sqrt(np.maximum(squared, 1e-12))).astype(np.float32))
        return Pieces((scale @ words).tocsr(), of_words), Pairs((scale @ pairs).tocsr())


class Pieces:
    """A Block: the texts' words times the words' pieces, kept apart since a word comes in many texts."""

    def __init__(self, words: Any, of_words: Any) -> None:
        self.features = of_words.shape[1]
        self._words, self._of_words = words, of_words
        self._words_transposed, self._of_words_transposed = words.T.tocsr(), of_words.T.tocsr()

    def times(self, weights: Floats) -> Floats:
        return np.asarray(self._words @ (self._of_words @ weights))

    def transposed_times(self, residuals: Floats) -> Floats:
        return np.asarray(self._of_words_transposed @ (self._words_transposed @ residuals))


class Pairs:
    """A Block."""

    def __init__(self, pairs: Any) -> None:
        self.features = pairs.shape[1]
        self._pairs, self._transposed = pairs, pairs.T.tocsr()

    def times(self, weights: Floats) -> Floats:
        return np.asarray(self._pairs @ weights)

    def transposed_times(self, residuals: Floats) -> Floats:
        return np.asarray(self._transposed @ residuals)


def _numbered(things: Any) -> Mapping[Any, int]:
    return {thing: number for number, thing in enumerate(sorted(set(things)))}


def _counts(rows: Sequence[Sequence[int]], columns: int) -> Any:
    ends = np.cumsum([0, *map(len, rows)])
    indices = np.array([column for row in rows for column in row], np.int32)
    counts = sparse.csr_array((np.ones(len(indices), np.float32), indices, ends), shape=(len(rows), columns))
    counts.sum_duplicates()
    return counts


def _known(rows: Any, rarity: Floats) -> Any:
    """The columns of what is known, each by its rarity."""
    known = np.flatnonzero(rarity)
    return (rows.tocsc()[:, known] @ sparse.diags_array(rarity[known])).tocsr()


def _squared_lengths(rows: Any) -> Floats:
    return np.asarray(rows.multiply(rows).sum(axis=1), np.float32)


def _rarity(has: Any) -> Floats:
    texts = np.asarray(has.sum(axis=0)).ravel()
    rarity = 1 + np.log((1 + has.shape[0]) / (1 + texts))
    return np.where(texts >= LEAST_TEXTS, rarity, 0).astype(np.float32)
