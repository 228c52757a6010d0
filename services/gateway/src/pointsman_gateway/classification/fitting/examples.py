"""The training texts with their folds for cross-validation, and their lexical features (word pieces and word pairs)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.classification.classes import TaskClasses
from pointsman_gateway.classification.excerpt import SpanTokenizer, token_excerpt
from pointsman_gateway.classification.model import NO_INTENTS, PAIR_RATIO_STEP, Intents, PairRatios, Vocabulary
from pointsman_gateway.classification.scores import Floats
from pointsman_gateway.classification.words import pairs_of, pieces_of, unique_words, words_of

FOLDS = 5

OUT_OF_SCOPE = -1
"""The label of a text that belongs to no task, instead of the number of a task or a class."""

MIN_INTENT_TEXTS = 3
"""An intent (a finer label of a task's examples) becomes a class if it has at least this many different texts.

While one of three texts is held out, two are left, and a word that both contain is in the vocabulary (`MIN_TEXTS`).
"""

MAX_INTENTS = 256
"""Maximum number of intents (finer labels of examples) of a task that become classes.

The time and memory of training grow with the number of classes.
"""

MIN_TEXTS = 2
"""Word pieces and word pairs are in the vocabulary only if they occur in at least this many texts.

A piece or pair that occurs in a single text carries no information about other texts.
"""

MIN_PAIR_RATIO = -0.5
"""The lower limit of the logarithms in `PairRatios.ratios`, since the absence of a pair says little about a class.
Without it, 80 instead of 83 % of the out-of-scope requests to the help desk are detected at a coverage of 95 %."""

PRIOR_TEXTS = 5
"""How many average texts are added to each class's own texts when word pairs are counted and pair scores are
averaged."""

Rows = NDArray[np.intp]
"""Positions of texts in `Examples.texts`, as an array of integers."""


@dataclass(frozen=True, slots=True)
class Examples:
    """The training texts, with the task, the class and the fold of each text. A class is an intent of a task or the
    whole task.
    """

    tasks: tuple[str, ...]
    """The tasks' names, sorted; a task's number is its position."""
    texts: tuple[str, ...]
    """The part of each text that the classifier reads (`token_excerpt`). Texts of a task are adjacent, tasks are in
    order, and out-of-scope texts are last."""
    y: NDArray[np.intp]
    """The number of each text's task, or OUT_OF_SCOPE, (texts,)."""
    own_classes: NDArray[np.intp]
    """The number of each text's class, or OUT_OF_SCOPE, (texts,)."""
    classes: TaskClasses
    folds: NDArray[np.intp]
    """The fold of each text, 0 to `FOLDS` - 1, (texts,)."""

    @property
    def inside(self) -> NDArray[np.bool_]:
        return np.asarray(self.y != OUT_OF_SCOPE)


def collect_examples(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    tokens: SpanTokenizer,
    seed: int,
    intents: Intents = NO_INTENTS,
) -> Examples:
    """Cuts the training texts to the excerpts that the classifier reads, and assigns them to folds at random.

    `examples` has the texts of each task, and `out_of_scope` texts that belong to no task. `tokens` finds the tokens by
    which the excerpts are cut, and `seed` is the seed of the random numbers. `intents` has finer labels of the
    examples: an intent with at least `MIN_INTENT_TEXTS` different texts is a class, for at most `MAX_INTENTS` intents
    of a task. The task's other examples together are one more class.

    Raises InvalidArgument if there are fewer than two tasks, or a task has no example.
    """
    tasks = tuple(sorted(examples))
    empty = [task for task in tasks if not examples[task]]
    if empty:
        raise InvalidArgument(f"task '{empty[0]}' has no examples to learn from", code="no_examples")
    if len(tasks) < 2:
        raise InvalidArgument("a classifier needs two tasks or more to choose between", code="one_task")
    groups = [
        [token_excerpt(text, tokens).text for text in texts]
        for texts in [*(examples[task] for task in tasks), out_of_scope]
    ]
    keys = [[" ".join(words_of(text)) for text in texts] for texts in groups]
    labels: list[Sequence[str]] = [*(intents.get(task, ()) for task in tasks), ()]
    own = [_intent_numbers(of, intents_of) for of, intents_of in zip(keys, labels, strict=True)]
    classes = TaskClasses.of_counts([max(numbers) + 1 for numbers in own[:-1]])
    rng = np.random.default_rng(seed)
    folds = np.concatenate([_folds(of, numbers, rng) for of, numbers in zip(keys, own, strict=True)])
    y = np.repeat([*range(len(tasks)), OUT_OF_SCOPE], [len(texts) for texts in groups])
    own_classes = np.where(y == OUT_OF_SCOPE, OUT_OF_SCOPE, classes.starts[y] + np.concatenate(own).astype(np.intp))
    return Examples(tasks, tuple(text for texts in groups for text in texts), y, own_classes, classes, folds)


def _intent_numbers(keys: Sequence[str], intents: Sequence[str]) -> list[int]:
    """Returns the number of each text's class within its task, from 0. `keys` are equal for texts with the same
    words.
    """
    if not intents:
        return [0] * len(keys)
    counts = Counter(intent for _, intent in dict.fromkeys(zip(keys, intents, strict=True)) if intent)
    frequent = [intent for intent in sorted(counts) if counts[intent] >= MIN_INTENT_TEXTS]
    frequent = sorted(frequent, key=lambda intent: -counts[intent])[:MAX_INTENTS]
    numbers = {intent: number for number, intent in enumerate(sorted(frequent))}
    return [numbers.get(intent, len(numbers)) for intent in intents]


def _folds(keys: Sequence[str], classes: Sequence[int], rng: np.random.Generator) -> NDArray[np.intp]:
    """Returns the fold of each text; the texts of each class are distributed evenly over the folds.

    Texts with the same words share a fold, so that a model is not tested on a text that it was trained on.
    """
    class_of = dict(zip(keys, classes, strict=True))
    of_classes: dict[int, list[str]] = {number: [] for number in range(max(classes, default=0) + 1)}
    for key in sorted(class_of):
        of_classes[class_of[key]].append(key)
    fold_of: dict[str, int] = {}
    for distinct in of_classes.values():
        numbers = (np.arange(len(distinct)) + rng.integers(FOLDS)) % FOLDS
        rng.shuffle(numbers)
        fold_of |= zip(distinct, numbers.tolist(), strict=True)
    return np.array([fold_of[key] for key in keys], np.intp)


@dataclass(frozen=True, slots=True)
class Rarity:
    """The inverse document frequency of each word piece and word pair; 0 for pieces and pairs that are not in the
    vocabulary.
    """

    pieces: Floats
    pairs: Floats


class Corpus:
    """The lexical features (word pieces and word pairs) of all training texts, as sparse matrices.

    Methods take positions of texts. The feature vector of a text is the sum of the vectors of its distinct words and
    word pairs, divided by the square root of the sum of their squared lengths. So each word contributes a vector that
    can be computed once. Dividing by the length of the sum instead would be exact TF-IDF, and is no more accurate.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        words = [words_of(text) for text in texts]
        word_numbers = _numbered(word for row in words for word in row)
        pieces = {word: pieces_of(word) for word in word_numbers}
        self._piece_numbers = _numbered(piece for row in pieces.values() for piece in row)
        self._pair_numbers = _numbered(pair for row in words for pair in pairs_of(row))
        self._words = _counts([[word_numbers[word] for word in unique_words(row)] for row in words], len(word_numbers))
        self._of_words = _counts(
            [[self._piece_numbers[p] for p in pieces[word]] for word in word_numbers], len(self._piece_numbers)
        )
        self._pairs = _counts(
            [[self._pair_numbers[pair] for pair in pairs_of(row)] for row in words], len(self._pair_numbers)
        )
        self._has_piece = (self._words @ self._of_words).astype(bool)
        self._has_pair = self._pairs.astype(bool)

    def rarity(self, rows: Rows) -> Rarity:
        """Returns the inverse document frequencies of all pieces and pairs over the texts `rows`; 0 for a piece or pair
        in fewer than `MIN_TEXTS` of these texts.
        """
        return Rarity(_rarity(self._has_piece[rows]), _rarity(self._has_pair[rows]))

    def pair_ratios(self, rows: Rows, y: NDArray[np.intp], classes: int) -> NDArray[np.int8]:
        """Returns how typical each word pair is of each class, in the form of `PairRatios.ratios`, (pairs, classes).

        The ratios are counted in the texts `rows`. `y`, (rows,), has the number of each text's class, and `classes` is
        the number of classes. Only pairs in at least `MIN_TEXTS` of the texts have a row. Logarithms are at least
        `MIN_PAIR_RATIO`. `PRIOR_TEXTS` texts with the pairs of an average text are added to each class's own texts, so
        that the absence of a pair counts less in a class with few examples.
        """
        pairs = self._known_pairs(rows, rows)
        of_classes = sparse.csr_array((np.ones(len(y), np.float32), (np.arange(len(y)), y)), shape=(len(y), classes))
        counts = (pairs.T @ of_classes).toarray()
        in_all = counts.sum(axis=1, keepdims=True) / len(y)
        in_class = (counts + PRIOR_TEXTS * in_all) / (np.bincount(y, minlength=classes) + PRIOR_TEXTS)
        ratios = np.log(in_class / in_all).clip(MIN_PAIR_RATIO, np.iinfo(np.int8).max * PAIR_RATIO_STEP)
        return np.asarray(np.rint(ratios / PAIR_RATIO_STEP), np.int8)

    def pair_scores(self, scored: Rows, rows: Rows, ratios: NDArray[np.int8]) -> Floats:
        """Returns the pair score (see `PairRatios`) of each text of `scored` for each class, (scored, classes).

        `ratios` is the result of `pair_ratios` for the texts `rows`.
        """
        sums = self._known_pairs(scored, rows) @ (ratios * np.float32(PAIR_RATIO_STEP))
        return np.asarray(sums / np.sqrt(self._has_pair[scored].sum(axis=1))[:, None], np.float32)

    def _known_pairs(self, scored: Rows, rows: Rows) -> Any:
        """Returns 1 or 0 for each text of `scored` and each pair, (scored, pairs): whether the text has the pair. The
        pairs are those in at least `MIN_TEXTS` of the texts `rows`.
        """
        known = np.flatnonzero(_rarity(self._has_pair[rows]))
        return self._has_pair[scored][:, known].astype(np.float32)

    def vocabulary(
        self, rarity: Rarity, piece_weights: Floats, pair_weights: Floats, pair_ratios: PairRatios
    ) -> Vocabulary:
        """Returns the word pieces and word pairs with a rarity above 0 as a `Vocabulary`.

        The other arguments become the fields of the same names.
        """
        pieces, pairs = np.flatnonzero(rarity.pieces), np.flatnonzero(rarity.pairs)
        names, pair_names = list(self._piece_numbers), list(self._pair_numbers)
        return Vocabulary(
            pieces=tuple(names[number] for number in pieces),
            pairs=tuple(" ".join(pair_names[number]) for number in pairs),
            piece_rarity=rarity.pieces[pieces],
            pair_rarity=rarity.pairs[pairs],
            piece_weights=piece_weights,
            pair_weights=pair_weights,
            pair_ratios=pair_ratios,
        )

    def blocks(self, rows: Rows, rarity: Rarity) -> tuple["Pieces", "Pairs"]:
        """Returns the features of the texts `rows` as two matrices, of word pieces and of word pairs, weighted by
        `rarity`.

        The matrices have columns only for features with a rarity above 0.
        """
        of_words = _known(self._of_words, rarity.pieces)
        pairs = _known(self._pairs[rows], rarity.pairs)
        words = self._words[rows]
        squared = words @ _squared_lengths(of_words) + _squared_lengths(pairs)
        scale = sparse.diags_array((1 / np.sqrt(np.maximum(squared, 1e-12))).astype(np.float32))
        return Pieces((scale @ words).tocsr(), of_words), Pairs((scale @ pairs).tocsr())


class Pieces:
    """The word pieces of texts; implements `FeatureBlock`.

    The matrix (texts, pieces) is kept as the product of two sparse matrices: `words`, (texts, words), and `of_words`,
    (words, pieces).
    """

    def __init__(self, words: Any, of_words: Any) -> None:
        self.features = of_words.shape[1]
        self._words, self._of_words = words, of_words
        self._words_transposed, self._of_words_transposed = words.T.tocsr(), of_words.T.tocsr()

    def times(self, weights: Floats) -> Floats:
        return np.asarray(self._words @ (self._of_words @ weights))

    def transposed_times(self, residuals: Floats) -> Floats:
        return np.asarray(self._of_words_transposed @ (self._words_transposed @ residuals))


class Pairs:
    """The word pairs of texts, a sparse matrix (texts, pairs); implements `FeatureBlock`."""

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
    """Selects the columns of the features with a rarity above 0, and multiplies each with its rarity."""
    known = np.flatnonzero(rarity)
    return (rows.tocsc()[:, known] @ sparse.diags_array(rarity[known])).tocsr()


def _squared_lengths(rows: Any) -> Floats:
    return np.asarray(rows.multiply(rows).sum(axis=1), np.float32)


def _rarity(has: Any) -> Floats:
    texts = np.asarray(has.sum(axis=0)).ravel()
    rarity = 1 + np.log((1 + has.shape[0]) / (1 + texts))
    return np.where(texts >= MIN_TEXTS, rarity, 0).astype(np.float32)
