"""The two stages: what each sees in a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.fitted import Lexicon, Stage
from pointsman_gateway.classification.softmax_regression import Floats
from pointsman_gateway.classification.word_rows import WordRows
from pointsman_gateway.classification.words import different, pairs_of, pieces_of, words_of
from pointsman_gateway.domain import Vector


class StaticModel(Protocol):
    """Words to rows whose sum stands for the text."""

    fingerprint: str

    def sum_of(self, text: str) -> NDArray[np.float32]:
        """(dimensions,); zeros where nothing is known."""
        ...

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Where each token begins and ends, in characters."""
        ...


class Encoder(Protocol):
    """Texts to unit vectors."""

    fingerprint: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n,) texts -> (n, dimensions)."""
        ...


@dataclass(frozen=True, slots=True)
class Sight:
    """What a stage sees in a text."""

    logits: Floats
    """(tasks,), not yet divided by the temperature."""
    familiarity: float
    vector: Vector | None = None


class Scorer:
    """A stage's head, prototypes and scale as one product."""

    def __init__(self, stage: Stage) -> None:
        self._rows = np.ascontiguousarray(np.concatenate([stage.weights.T, stage.prototypes, stage.foreign]))
        self._bias, self._scale = stage.bias, stage.scale
        self._tasks = len(stage.bias)
        self._known = self._tasks + len(stage.prototypes)

    def logits_of(self, vector: Vector) -> tuple[Floats, Floats]:
        """The logits, and the products from which `familiarity` is found."""
        products = self._rows @ vector
        return products[: self._tasks] + self._bias, products

    def familiarity(self, logits: Floats, products: Floats) -> float:
        most = np.maximum.reduce(logits)  # half of `logits.max()` is finding that
        energy = float(most) + float(np.log(np.add.reduce(np.exp(logits - most))))
        foreign = products[self._known :]
        return self._scale.score_one(
            energy,
            float(np.maximum.reduce(products[self._tasks : self._known])),
            float(np.maximum.reduce(foreign)) if len(foreign) else 0.0,
        )


class StaticStage:
    """Tens of microseconds: a row for each word and each pair of words, added up."""

    def __init__(self, stage: Stage, lexicon: Lexicon, model: StaticModel) -> None:
        self.temperature = stage.temperature
        self._model, self._scorer = model, Scorer(stage)
        self._dimensions, self._tasks = stage.weights.shape
        self._pieces = {piece: number for number, piece in enumerate(lexicon.pieces)}
        self._pairs = {tuple(pair.split(" ")): number for number, pair in enumerate(lexicon.pairs, start=1)}
        self._piece_rows = _rows(lexicon.piece_weights, lexicon.piece_rarity)
        pair_rows = _rows(lexicon.pair_weights, lexicon.pair_rarity)
        self._pair_rows = np.concatenate([np.zeros_like(pair_rows[:1]), pair_rows])
        """The first one is nobody's: no number is 0, so that `filter` takes the numbers alone."""
        self._words = WordRows(self._row)

    def see(self, text: str) -> Sight | None:
        """None for a text without a letter or a digit, and for one of which no word, no piece and no token is known."""
        words = words_of(text)
        if not any(map(str.isalnum, words)):
            return None
        total = self._words.sum_of(different(words))
        pairs = list(filter(None, map(self._pairs.get, pairs_of(words))))
        lexical = total[self._dimensions :]
        if pairs:
            lexical = lexical + np.add.reduce(self._pair_rows[pairs])
        vector = total[: self._dimensions]
        length, squared = float(vector @ vector) ** 0.5, float(lexical[-1])
        if length == 0 and squared == 0:
            return None
        logits, products = self._scorer.logits_of(vector / np.float32(length or 1))
        logits += lexical[:-1] / np.float32((squared or 1) ** 0.5)
        return Sight(logits, self._scorer.familiarity(logits, products))

    def _row(self, word: str) -> Floats:
        """(dimensions + tasks + 1,): the word's vector, its share of the logits, its squared length."""
        pieces = [number for piece in pieces_of(word) if (number := self._pieces.get(piece)) is not None]
        return np.concatenate([self._model.sum_of(word), self._piece_rows[pieces].sum(axis=0)])


class EncoderStage:
    """About a millisecond: the text through MiniLM."""

    def __init__(self, stage: Stage, static_share: float, encoder: Encoder) -> None:
        self.temperature = stage.temperature
        self._encoder, self._scorer, self._static_share = encoder, Scorer(stage), np.float32(static_share)

    def see(self, text: str, static: Sight | None) -> Sight:
        """With what the static stage saw, if there is one."""
        vector = self._encoder.embed([text])[0]
        logits, products = self._scorer.logits_of(vector)
        if static:
            logits = (1 - self._static_share) * logits + self._static_share * static.logits
        return Sight(logits, self._scorer.familiarity(logits, products), vector)


def _rows(weights: Floats, rarity: Floats) -> Floats:
    """(features, tasks + 1): what a feature adds to the logits, and to the squared length."""
    return np.concatenate([weights * rarity[:, None], (rarity * rarity)[:, None]], axis=1)
