"""The classifier: an embedding, a linear head, and a score below which it abstains."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from pointsman_gateway.domain import UNKNOWN, Labels, Vector

FOLDS = 5


class Embedder(Protocol):
    """Texts to unit vectors."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n,) texts -> (n, dimensions)."""
        ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head with what it needs to know when it does not know."""

    tasks: tuple[str, ...]
    head: LogisticRegression
    vectors: NDArray[np.float32]
    """(examples, dimensions): every example, for the nearest neighbour."""
    thresholds: NDArray[np.float64]
    """(tasks,): the lowest score at which that task is believed."""
    accuracy: float
    """Out of fold."""


def fit(vectors: NDArray[np.float32], labels: Sequence[str], keep_rate: float, seed: int) -> Fitted:
    """Learns the tasks from their examples' vectors (examples, dimensions).

    Each task's threshold is the (1 - keep_rate) quantile of the scores that its own examples get out of fold, so that
    about keep_rate of what belongs to it is kept.
    """
    tasks, y = np.unique(np.asarray(labels), return_inverse=True)
    folds = min(FOLDS, int(np.bincount(y).min()))
    scores, predicted = np.empty(len(y)), np.empty(len(y), dtype=np.int64)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(vectors, y):
        head = _head(seed).fit(vectors[train], y[train])
        probabilities = head.predict_proba(vectors[test])
        predicted[test] = probabilities.argmax(axis=1)
        scores[test] = _score(probabilities, vectors[test], vectors[train])
    thresholds = np.array([np.quantile(scores[y == task], 1 - keep_rate) for task in range(len(tasks))])
    return Fitted(
        tuple(str(task) for task in tasks),
        _head(seed).fit(vectors, y),
        vectors,
        thresholds,
        float((predicted == y).mean()),
    )


def _head(seed: int) -> LogisticRegression:
    # C=30, tol=1e-4: with unit vectors a stronger penalty underfits, and a looser tolerance stops before convergence.
    return LogisticRegression(C=30, tol=1e-4, max_iter=2000, class_weight="balanced", random_state=seed)


def _score(
    probabilities: NDArray[np.float64], vectors: NDArray[np.float32], known: NDArray[np.float32]
) -> NDArray[np.float64]:
    """How much a text is like what is known, (n,): its nearest neighbour's cosine, and the winner's probability."""
    nearest = (vectors @ known.T).max(axis=1).astype(np.float64)
    return np.asarray(nearest + 0.25 * probabilities.max(axis=1), dtype=np.float64)


class Classifier:
    """Says which task a text belongs to, or that it belongs to none."""

    def __init__(self, embedder: Embedder, fitted: Fitted) -> None:
        self._embedder = embedder
        self._fitted = fitted
        # The softmax of the head by hand: scikit-learn's own checks cost ten times the product.
        self._weights = np.ascontiguousarray(fitted.head.coef_.T)
        self._bias = fitted.head.intercept_

    async def classify(self, text: str) -> Labels:
        """The text's labels, its vector among them."""
        return await asyncio.to_thread(self._classify, text)

    async def embed(self, text: str) -> Vector:
        """The text's vector alone, for a request whose task is known already."""
        vectors = await asyncio.to_thread(self._embedder.embed, [text])
        return np.asarray(vectors[0])

    def _classify(self, text: str) -> Labels:
        vectors = self._embedder.embed([text])
        probabilities = self._probabilities(vectors)
        best = int(probabilities[0].argmax())
        score = _score(probabilities, vectors, self._fitted.vectors)[0]
        abstained = bool(score < self._fitted.thresholds[best])
        ranked = sorted(zip(self._fitted.tasks, probabilities[0].tolist(), strict=True), key=lambda item: -item[1])
        return Labels(
            task=UNKNOWN if abstained else self._fitted.tasks[best],
            confidence=ranked[0][1],
            probabilities=tuple(ranked),
            abstained=abstained,
            stage="classifier",
            vector=vectors[0],
        )

    def _probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = vectors @ self._weights + self._bias
        if logits.shape[1] == 1:  # two tasks: scikit-learn keeps one row, for the second
            logits = np.hstack([np.zeros_like(logits), logits])
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)


def fit_tasks(
    embedder: Embedder, examples: Mapping[str, Sequence[str]], keep_rate: float, seed: int
) -> tuple[Fitted, dict[str, NDArray[np.float32]]]:
    """Embeds every task's examples and learns from them; returns the vectors by task too."""
    vectors = {task: embedder.embed(texts) for task, texts in examples.items()}
    labels = [task for task, texts in examples.items() for _ in texts]
    # BLAS's threads spin while they wait for each other: beside a busy engine two took four times as long as one.
    with threadpool_limits(limits=1):
        return fit(np.vstack(list(vectors.values())), labels, keep_rate, seed), vectors
