"""Trains one stage of the classifier: centroids of its examples, and a linear head.

The head is multinomial logistic regression, fitted by L-BFGS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]  # it ships no types

from pointsman_gateway.classification.classes import TaskClasses
from pointsman_gateway.classification.fitting.examples import FOLDS, Corpus, Examples, Rows
from pointsman_gateway.classification.scores import Floats

MEMORY = 4
"""Pairs of steps and gradient changes that L-BFGS stores. With 6 instead of 4, the static stage took 15.6 instead of
12.2 s of CPU time to train on four fifths of CLINC150."""
MAX_STEPS = 200

INVERSE_PENALTY = 30
"""The `inverse_penalty` of `fit_head`, scikit-learn's C.

Mean accuracy on seven small data sets: 94.1 % with 3, 94.3 with 10, 94.6 with 30, 94.4 with 100.
"""

TOLERANCE = 0.01
"""The `tolerance` of `fit_head`. With a third of it, the accuracy on CLINC150's validation part differs by less than
0.1 percentage points."""

MAX_OUT_OF_SCOPE_CENTROIDS = 128

EXAMPLES_PER_CENTROID = 20
"""A class gets one centroid for each this many examples.

Classes with many examples are more diverse: five centroids are too few for 640 triage messages.
"""

KMEANS_ROUNDS = 12

MIN_CENTROIDS, MAX_CENTROIDS = 5, 100
"""Minimum and maximum number of centroids of a class.

On CLINC150 five centroids of a class detect out-of-scope texts as well as its hundred examples do, in 2 % of the time.
"""


class FeatureBlock(Protocol):
    """Interface of a matrix (texts, features) with one kind of features, such as word pairs; each row is one text."""

    features: int
    """The number of features, which are the columns of the matrix."""

    def times(self, weights: Floats) -> Floats:
        """Returns the matrix times `weights` (features, classes): (rows, classes)."""
        ...

    def transposed_times(self, residuals: Floats) -> Floats:
        """Returns the transposed matrix times `residuals` (rows, classes): (features, classes)."""
        ...


class Dense:
    """A `FeatureBlock` that is stored as an array (rows, features)."""

    def __init__(self, rows: Floats) -> None:
        self.features = rows.shape[1]
        self._rows = np.ascontiguousarray(rows, np.float32)

    def times(self, weights: Floats) -> Floats:
        return self._rows @ weights

    def transposed_times(self, residuals: Floats) -> Floats:
        return self._rows.T @ residuals


@dataclass(frozen=True, slots=True)
class LinearHead:
    weights: tuple[Floats, ...]
    """One matrix (features, classes) for each `FeatureBlock`."""
    bias: Floats
    """The bias of each class, (classes,)."""

    def logits(self, blocks: Sequence[FeatureBlock]) -> Floats:
        """Returns the logits of texts for each class, (rows, classes). `blocks` are their features, one block for each
        matrix of `weights`.
        """
        return sum((block.times(w) for block, w in zip(blocks, self.weights, strict=True)), start=self.bias)


def fit_head(
    blocks: Sequence[FeatureBlock], y: NDArray[np.intp], classes: TaskClasses, inverse_penalty: float, tolerance: float
) -> LinearHead:
    """Returns the linear head with the least loss, which is the weighted mean cross-entropy plus a penalty on the
    weights.

    The penalty is |weights|^2 / (2 * inverse_penalty * rows); `inverse_penalty` is scikit-learn's C. `blocks` are the
    features of the rows, one row for each text, and `y` the rows' class numbers, (rows,). `row_weights` gives the
    weights of the rows. The fit stops when the largest component of the gradient is at most `tolerance` times its
    largest component for a head of zeros, or after `MAX_STEPS` steps.
    """
    objective = _Objective(blocks, y, classes.count, row_weights(y, classes), 1 / (inverse_penalty * len(y)))
    parameters = _minimize(objective, tolerance)
    return LinearHead(*objective.split(parameters))


def row_weights(y: NDArray[np.intp], classes: TaskClasses) -> Floats:
    """Returns the weight of each row in the loss, (rows,); the weights add up to 1. `y` are the rows' class numbers,
    (rows,).

    A row's weight is proportional to 1 / sqrt(number of rows of its task). Within a task, the classes are weighted by
    the same rule. This is a compromise: with equal weights of rows, frequent tasks would dominate, although they need
    not be frequent in the traffic; with equal weights of tasks, the few rows of a rare task would count too much.
    """
    counts = np.bincount(y, minlength=classes.count)
    weights = (1 / np.sqrt(counts[y])).astype(np.float32)
    if not classes.are_tasks:
        of_tasks = np.sqrt(np.add.reduceat(counts, classes.starts))
        of_classes = np.add.reduceat(np.sqrt(counts), classes.starts)
        weights *= np.repeat(of_tasks / np.maximum(of_classes, 1), classes.sizes)[y].astype(np.float32)
    weights /= weights.sum()
    return weights


class _Objective:
    def __init__(
        self, blocks: Sequence[FeatureBlock], y: NDArray[np.intp], classes: int, row_weights: Floats, penalty: float
    ) -> None:
        self._blocks, self._y, self._classes = blocks, y, classes
        self.row_weights, self._penalty = row_weights, np.float32(penalty)
        self._ends = np.cumsum([block.features * classes for block in blocks]).tolist()
        self.size = self._ends[-1] + classes

    def split(self, parameters: Floats) -> tuple[tuple[Floats, ...], Floats]:
        starts = [0, *self._ends[:-1]]
        weights = tuple(parameters[a:b].reshape(-1, self._classes) for a, b in zip(starts, self._ends, strict=True))
        return weights, parameters[self._ends[-1] :]

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        """Returns (loss, gradient) for the weights and the bias of a head. `parameters` and the gradient are flat
        arrays.
        """
        weights, bias = self.split(parameters)
        logits = LinearHead(weights, bias).logits(self._blocks)
        logits -= logits.max(axis=1, keepdims=True)
        rows = np.arange(len(self._y))
        of_truth = logits[rows, self._y]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        fit_loss = float(self.row_weights @ (np.log(total[:, 0]) - of_truth))
        logits /= total
        logits[rows, self._y] -= 1
        logits *= self.row_weights[:, None]
        gradient = np.empty_like(parameters)
        of_weights, of_bias = self.split(gradient)
        for block, w, g in zip(self._blocks, weights, of_weights, strict=True):
            np.multiply(w, self._penalty, out=g)
            g += block.transposed_times(logits)
        of_bias[:] = logits.sum(axis=0)
        penalised = parameters[: self._ends[-1]]
        return fit_loss + 0.5 * float(self._penalty) * float(penalised @ penalised), gradient


def _minimize(objective: _Objective, tolerance: float) -> Floats:
    """Returns the parameters with the least loss, found by scipy's L-BFGS-B from zero in at most `MAX_STEPS` steps.

    scipy works in double precision; the objective is computed in single precision, which is faster. `ftol` is 0, so
    that only the gradient decides when to stop.
    """

    def evaluate(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = objective(parameters.astype(np.float32))
        return loss, gradient.astype(np.float64)

    start = np.zeros(objective.size)
    steepest = float(np.abs(evaluate(start)[1]).max())
    found = minimize(
        evaluate,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": MEMORY, "maxiter": MAX_STEPS, "gtol": tolerance * steepest, "ftol": 0.0},
    )
    return np.asarray(found.x, np.float32)


BlockReader = Callable[[Rows], Sequence[FeatureBlock]]
"""A function that takes positions in the list of training texts, and returns these texts' features, a matrix for each
kind of features.
"""


class Features(Protocol):
    """Interface of the features of all training texts from which one stage of the classifier learns."""

    def reader_for(self, rows: Rows) -> BlockReader:
        """Returns a function that reads the features of any training texts, given their positions.

        Word pieces and word pairs are used only if the vocabulary of the texts `rows`, those to train on, contains
        them.
        """
        ...


class DenseFeatures:
    """The `Features` of the encoder stage: the texts' vectors, (texts, dimensions)."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors

    def reader_for(self, rows: Rows) -> BlockReader:
        return lambda wanted: [Dense(self._vectors[wanted])]


class LexicalFeatures:
    """The `Features` of the static stage: the texts' vectors, (texts, dimensions), pieces and word pairs."""

    def __init__(self, vectors: Floats, corpus: Corpus) -> None:
        self._vectors, self._corpus = vectors, corpus

    def reader_for(self, rows: Rows) -> BlockReader:
        rarity = self._corpus.rarity(rows)
        return lambda wanted: [Dense(self._vectors[wanted]), *self._corpus.blocks(wanted, rarity)]


@dataclass(frozen=True, slots=True)
class FittedStage:
    head: LinearHead
    centroids: Floats


@dataclass(frozen=True, slots=True)
class OutOfFoldScores:
    """One stage's raw results on each training text, computed by models that were not trained on the text."""

    logits: Floats
    """The logit of each text and class, (texts, classes)."""
    nearest: Floats
    """The cosine similarity of each text to the nearest centroid of a task, (texts,)."""
    out_of_scope: Floats
    """The cosine similarity of each text to the nearest other out-of-scope text, (texts,); 0 without out-of-scope
    texts.
    """


class StageLearner:
    """Trains one stage of the classifier, the static or the encoder stage.

    `vectors`, (texts, dimensions), are the unit vectors of all training texts in the stage's space; `seed` is the seed
    of the random choices of centroids.
    """

    def __init__(self, data: Examples, features: Features, vectors: Floats, seed: int) -> None:
        self._data, self._features, self._vectors, self._seed = data, features, vectors, seed

    def fit(self, rows: Rows) -> FittedStage:
        return self._fit(rows, self._features.reader_for(rows))

    def cross_validate(self, fold_done: Callable[[], None]) -> OutOfFoldScores:
        """Trains once for each fold, on the in-scope texts of the other folds, and scores the texts of the fold.

        Calls `fold_done` after each fold.
        """
        count = len(self._data.y)
        logits = np.zeros((count, self._data.classes.count), np.float32)
        nearest = np.zeros(count, np.float32)
        for fold in range(FOLDS):
            held_out = self._data.folds == fold
            scored, rows = np.flatnonzero(held_out), np.flatnonzero(~held_out & self._data.inside)
            if len(scored):
                reader = self._features.reader_for(rows)
                fitted = self._fit(rows, reader)
                logits[scored] = fitted.head.logits(reader(scored))
                nearest[scored] = (self._vectors[scored] @ fitted.centroids.T).max(axis=1)
            fold_done()
        return OutOfFoldScores(logits, nearest, self._nearest_out_of_scope())

    def out_of_scope_centroids(self) -> Floats:
        """Returns up to `MAX_OUT_OF_SCOPE_CENTROIDS` centroids of the out-of-scope texts, (centroids, dimensions); no
        rows without such texts.
        """
        outside = self._vectors[~self._data.inside]
        if not len(outside):
            return outside
        return centroids(outside, MAX_OUT_OF_SCOPE_CENTROIDS, np.random.default_rng(self._seed))

    def _fit(self, rows: Rows, reader: BlockReader) -> FittedStage:
        y, classes = self._data.own_classes[rows], self._data.classes
        head = fit_head(reader(rows), y, classes, INVERSE_PENALTY, TOLERANCE)
        return FittedStage(head, class_centroids(self._vectors[rows], y, classes.count, self._seed))

    def _nearest_out_of_scope(self) -> Floats:
        outside = np.flatnonzero(~self._data.inside)
        if not len(outside):
            return np.zeros(len(self._vectors), np.float32)
        cosines = self._vectors @ self._vectors[outside].T
        cosines[outside, np.arange(len(outside))] = -1
        return np.asarray(cosines.max(axis=1))


def class_centroids(vectors: Floats, y: NDArray[np.intp], classes: int, seed: int) -> Floats:
    """Returns the centroids of all classes in one array, (centroids, dimensions).

    `vectors` are the unit vectors of the examples, (examples, dimensions), `y` their class numbers, (examples,), and
    `classes` is the number of classes. A class has one centroid for each `EXAMPLES_PER_CENTROID` examples, at least
    `MIN_CENTROIDS` (but no more than it has examples) and at most `MAX_CENTROIDS`. The similarity to the nearest
    centroid detects out-of-scope texts nearly as well as the similarity to the nearest example.
    """
    rng = np.random.default_rng(seed)
    groups = (vectors[y == number] for number in range(classes))
    return np.concatenate([centroids(group, _centroid_count(len(group)), rng) for group in groups if len(group)])


def centroids(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Returns `count` centroids of unit vectors, (count, dimensions), by spherical k-means.

    `vectors` has the shape (examples, dimensions), with at least one row. If there are fewer than `count` vectors,
    there are as many centroids as vectors. The initial centroids are chosen as in k-means++ (Arthur and Vassilvitskii,
    2007).
    """
    centers = _initial_centroids(vectors, min(count, len(vectors)), rng)
    for _ in range(KMEANS_ROUNDS):
        nearest = (vectors @ centers.T).argmax(axis=1)
        sums = np.stack([vectors[nearest == center].sum(axis=0) for center in range(len(centers))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return np.asarray(centers, np.float32)


def _centroid_count(examples: int) -> int:
    return min(max(MIN_CENTROIDS, examples // EXAMPLES_PER_CENTROID), MAX_CENTROIDS)


def _initial_centroids(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    chosen = [int(rng.integers(len(vectors)))]
    distance = 1 - vectors @ vectors[chosen[0]]
    while len(chosen) < count:
        weights = np.maximum(distance, 1e-9).astype(np.float64)
        chosen.append(int(rng.choice(len(vectors), p=weights / weights.sum())))
        distance = np.minimum(distance, 1 - vectors @ vectors[chosen[-1]])
    return vectors[chosen]
