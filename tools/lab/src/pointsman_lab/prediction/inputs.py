"""What is known of requests before they are answered: their embeddings, lengths and probable tasks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

FOLDS, SEED = 5, 7
PRIOR_TASK_ROWS = 5.0
"""Rows with the path's mean that are added to each task's, so that the mean of a task with few rows is near it."""


@dataclass(frozen=True, slots=True)
class Inputs:
    vectors: Array
    """The embedding of each request, (rows, dimensions); without columns the predictions do not use it."""
    lengths: Array
    """The length of each request in characters, (rows,)."""
    shares: Array
    """The probability of each task, (rows, tasks), which add up to 1 or less; without columns there is one task."""

    @classmethod
    def of_one_task(cls, vectors: Array, lengths: Array | None = None) -> "Inputs":
        """Makes the inputs of requests that all have the same task; without `lengths`, they are equal."""
        rows = len(vectors)
        return cls(vectors, np.ones(rows) if lengths is None else lengths, np.empty((rows, 0)))

    def rows(self, which: NDArray[np.bool_] | Indices) -> "Inputs":
        return Inputs(self.vectors[which], self.lengths[which], self.shares[which])

    def without_vectors(self) -> "Inputs":
        return Inputs(self.vectors[:, :0], self.lengths, self.shares)


def task_means(shares: Array, values: Array, mean: float) -> Array:
    """Returns each task's mean, (tasks,), of `values`, (rows,), shrunk towards `mean`.

    A row counts for each task with the task's probability, `shares` (rows, tasks).
    """
    return np.asarray((values @ shares + PRIOR_TASK_ROWS * mean) / (shares.sum(axis=0) + PRIOR_TASK_ROWS))


def mix(shares: Array, means: Array, mean: float) -> Array:
    """Returns the mean of each row's tasks by their probabilities, (rows,); what these lack to 1 counts as `mean`."""
    return np.asarray(mean + shares @ (means - mean))


def folds_of(count: int) -> Indices:
    """Assigns each of `count` rows at random to a fold from 0 to FOLDS - 1, the same for the same `count`."""
    return np.asarray(np.random.default_rng(SEED).permutation(count) % FOLDS)
