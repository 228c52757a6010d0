"""The scores and costs of models' answers to the texts of a benchmark, and the embeddings of the texts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.excerpt import token_excerpt
from pointsman_lab.prediction.inputs import Array, Indices, Inputs

BATCH = 64


@dataclass(frozen=True)
class ScoreTable:
    texts: list[str]
    sets: NDArray[np.str_]
    """(rows,): the data set of each text."""
    models: tuple[str, ...]
    scores: Array
    """(rows, models), from 0 to 1."""
    usd: Array
    """(rows, models): dollars of each answer; all 0 if they are not published."""

    def rows(self, which: NDArray[np.bool_] | Indices) -> "ScoreTable":
        at = np.flatnonzero(which) if which.dtype == bool else which
        texts = [self.texts[row] for row in at]
        return ScoreTable(texts, self.sets[at], self.models, self.scores[at], self.usd[at])

    @property
    def best_single(self) -> int:
        """Returns the model with the highest mean score."""
        return int(self.scores.mean(axis=0).argmax())


@dataclass(frozen=True)
class Split:
    learned: ScoreTable
    tested: ScoreTable


class Embedder:
    """Embeds each text once, also over several runs, as the gateway does: a long one by its beginning and end.

    It can take the place of the encoder when a classifier is fitted.
    """

    def __init__(self, model: Path, cache: Path) -> None:
        self.static, self._encoder = StaticModel.load(model), MiniLM.load(model)
        self.fingerprint = self._encoder.fingerprint
        self._file = cache / f"{self.fingerprint}.npz"
        self._vectors: dict[str, NDArray[np.float32]] = {}
        if self._file.exists():
            with np.load(self._file) as stored:
                self._vectors = dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))

    def inputs(self, table: ScoreTable) -> Inputs:
        """Returns the inputs of a table's rows, of one task."""
        lengths = np.array([max(1, len(text)) for text in table.texts], float)
        return Inputs.of_one_task(self.embed(table.texts).astype(float), lengths)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns (texts, dimensions)."""
        excerpts = [token_excerpt(text, self.static).text for text in texts]
        keys = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest() for text in excerpts]
        new = {key: text for key, text in zip(keys, excerpts, strict=True) if key not in self._vectors}
        by_length = sorted(new, key=lambda key: len(new[key]))  # a batch is padded to its longest text
        for start in range(0, len(by_length), BATCH):
            batch = by_length[start : start + BATCH]
            self._vectors |= dict(zip(batch, self._encoder.embed([new[key] for key in batch]), strict=True))
        return np.stack([self._vectors[key] for key in keys])

    def save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(self._file, keys=np.array(list(self._vectors)), vectors=np.stack(list(self._vectors.values())))
