"""The routers that are compared: each learns from some rows, and predicts scores and costs of others.

Nearest neighbours, ridge regression and the tasks' means are the simple ones. Whatever they choose (how many
neighbours, which penalty), they choose by cross-validation within the rows that they learn from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import FitSettings
from pointsman_gateway.domain import UNKNOWN
from pointsman_lab.prediction.cost import fit_cost
from pointsman_lab.prediction.inputs import FOLDS, Array, Inputs, folds_of
from pointsman_lab.prediction.quality import fit

from benchmarks.routers.score_table import Embedder, ScoreTable, Split

NEIGHBOURS = (5, 10, 20, 40, 80, 160)
RIDGE_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
MAX_EXAMPLES = 100
"""Texts of each set from which the classifier that tells the sets apart is trained, at most."""

Learner = Callable[[Array, Array, Array], Array]
"""Predicts scores, (rows, models), from learned vectors, learned scores and the rows' vectors."""


@dataclass(frozen=True)
class Contender:
    """What one router predicts for the tested rows."""

    name: str
    predicted: Array
    """(rows, models)"""
    expected_usd: Array
    """(rows, models)"""


def simple_routers(split: Split, embedder: Embedder) -> list[Contender]:
    """Returns nearest neighbours and ridge regression, with the mean cost of each model."""
    learned, tested = embedder.inputs(split.learned).vectors, embedder.inputs(split.tested).vectors
    mean_usd = np.tile(split.learned.usd.mean(axis=0), (len(tested), 1))
    found = []
    for name, learners in (
        ("k nearest neighbours", [neighbours(count) for count in NEIGHBOURS if count < len(learned) / 2]),
        ("ridge regression", [ridge(penalty) for penalty in RIDGE_PENALTIES]),
    ):
        best = min(learners, key=lambda learner: _squared_error(learner, learned, split.learned.scores))
        found.append(Contender(name, best(learned, split.learned.scores, tested), mean_usd))
    return found


def predicted_router(name: str, split: Split, learned: Inputs, tested: Inputs) -> Contender:
    """Returns the predictions that `pointsman predict` learns."""
    models = range(len(split.learned.models))
    predicted = np.stack([fit(learned, split.learned.scores[:, at]).of(tested) for at in models], axis=1)
    usd = np.stack([fit_cost(learned, split.learned.usd[:, at]).of(tested) for at in models], axis=1)
    return Contender(name, predicted, usd)


def neighbours(count: int) -> Learner:
    def predict(learned: Array, scores: Array, vectors: Array) -> Array:
        nearest = np.argpartition(-(vectors @ learned.T), count, axis=1)[:, :count]
        return np.asarray(scores[nearest].mean(axis=1))

    return predict


def ridge(penalty: float) -> Learner:
    def predict(learned: Array, scores: Array, vectors: Array) -> Array:
        center, mean = learned.mean(axis=0), scores.mean(axis=0)
        centered = (learned - center).astype(float)
        gram = centered.T @ centered + penalty * np.eye(centered.shape[1])
        return np.asarray(mean + (vectors - center) @ np.linalg.solve(gram, centered.T @ (scores - mean)))

    return predict


def _squared_error(learner: Learner, vectors: Array, scores: Array) -> float:
    folds = folds_of(len(vectors))
    return sum(
        float(
            np.square(learner(vectors[folds != f], scores[folds != f], vectors[folds == f]) - scores[folds == f]).sum()
        )
        for f in range(FOLDS)
    )


@dataclass(frozen=True)
class ToldSets:
    """The probabilities of the data sets as the gateway's classifier sees them, for learned and for tested rows."""

    learned: Inputs
    tested: Inputs
    accuracy: float
    """The share of the tested rows whose most probable set is the right one."""
    abstained: float
    """The share of the tested rows from which the classifier abstains."""


def tell_sets(split: Split, learned: Inputs, tested: Inputs, embedder: Embedder) -> ToldSets:
    """Trains the gateway's classifier on the learned rows, with a task for each data set.

    Each learned row is classified by a classifier that was trained without its fold.
    """
    names, folds = sorted(set(split.learned.sets.tolist())), folds_of(len(split.learned.texts))
    own = np.zeros((len(folds), len(names) + 1))
    for fold in range(FOLDS):
        own[folds == fold] = _shares(
            split.learned.rows(folds != fold), split.learned.rows(folds == fold), names, embedder
        )
    others = _shares(split.learned, split.tested, names, embedder)
    likely = np.array(names)[others[:, :-1].argmax(axis=1)]
    right = (likely == split.tested.sets) & (others[:, -1] == 0)
    return ToldSets(
        replace(learned, shares=own), replace(tested, shares=others), float(right.mean()), float(others[:, -1].mean())
    )


def known_sets(split: Split, learned: Inputs, tested: Inputs) -> tuple[Inputs, Inputs]:
    """Returns the inputs if the data set of each row were known."""
    names = np.unique(split.learned.sets)
    return (
        replace(learned, shares=(split.learned.sets[:, None] == names).astype(float)),
        replace(tested, shares=(split.tested.sets[:, None] == names).astype(float)),
    )


def _shares(examples: ScoreTable, asked: ScoreTable, names: Sequence[str], embedder: Embedder) -> Array:
    """Returns the probability of each set, and last whether the classifier abstains, (rows, sets + 1)."""
    texts = {name: _some(examples, name) for name in names}
    fitted = fit_classifier(texts, (), embedder.static, embedder, FitSettings())
    classifier, found = (
        CascadeClassifier(fitted, embedder.static, embedder),
        np.zeros((len(asked.texts), len(names) + 1)),
    )
    columns = {name: column for column, name in enumerate([*names, UNKNOWN])}
    for row, text in enumerate(asked.texts):
        labels = classifier.classify_now(text)
        for name, probability in [(UNKNOWN, 1.0)] if labels.abstained else labels.probabilities:
            found[row, columns[name]] = probability
    return found


def _some(table: ScoreTable, name: str) -> list[str]:
    rows: NDArray[np.intp] = np.flatnonzero(table.sets == name)
    return [table.texts[row] for row in np.random.default_rng(0).permutation(rows)[:MAX_EXAMPLES]]
