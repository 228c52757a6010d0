"""Answers without a language model: the most frequent output, or the output of the most similar training row."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import MiniLM

from benchmarks.experiment.folder import ROOT, Row
from benchmarks.experiment_public import scoring
from benchmarks.experiment_public.cells import Cell
from benchmarks.experiment_public.result_files import Answer
from benchmarks.experiment_public.sets import PublicSet

Matrix = NDArray[np.float32]


def answer(cell: Cell, public: PublicSet, test: Sequence[Row]) -> list[Answer]:
    train = public.training_rows(cell.rows, cell.seed)
    outputs = [row["output"] for row in train]
    if cell.path == "majority":
        # Of equally frequent outputs, the first in the draw.
        chosen = [Counter(outputs).most_common(1)[0][0]] * len(test)
    else:
        known, asked = (tfidf if cell.path == "tfidf" else embeddings)(_texts(train), _texts(test))
        chosen = [outputs[place] for place in (asked @ known.T).argmax(axis=1)]
    score = scoring.metric(cell.set)
    return [Answer(row["id"], text, score(text, row["output"])) for row, text in zip(test, chosen, strict=True)]


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row["text"] for row in rows]


def embeddings(train: Sequence[str], test: Sequence[str]) -> tuple[Matrix, Matrix]:
    encoder = MiniLM.load(ROOT / ".pointsman/models/minilm")
    return encoder.embed(train), encoder.embed(test)


def tfidf(train: Sequence[str], test: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Returns unit vectors of word counts, each times log((1 + n) / (1 + rows with the word)) + 1, for n training
    rows.
    """
    vocabulary = {word: place for place, word in enumerate(sorted({w for text in train for w in _words(text)}))}
    counts = [_counts(texts, vocabulary) for texts in (train, test)]
    weights = np.log((1 + len(train)) / (1 + (counts[0] > 0).sum(axis=0))) + 1
    known, asked = ((matrix * weights).astype(np.float32) for matrix in counts)
    return _unit(known), _unit(asked)


def _counts(texts: Sequence[str], vocabulary: dict[str, int]) -> Matrix:
    matrix = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, text in enumerate(texts):
        for word in _words(text):
            if word in vocabulary:
                matrix[row, vocabulary[word]] += 1
    return matrix


def _unit(matrix: Matrix) -> Matrix:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(matrix / lengths, np.float32)


def _words(text: str) -> list[str]:
    return text.casefold().split()
