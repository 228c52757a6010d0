"""The facts about requests from which quality and cost are predicted: their embeddings, lengths and probable tasks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

FOLDS, SEED = 5, 7
PRIOR_TASK_ROWS = 5.0
"""`task_means` adds this many rows with the path's mean to each task, so that a task with few rows is near the mean."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The facts about requests from which quality and cost are predicted, before the requests are answered.

    Each row of the arrays is a request.
    """

    vectors: Array
    """The embedding of each request, (rows, dimensions); with 0 dimensions, predictions do not use embeddings."""
    lengths: Array
    """The length of each request in characters, (rows,)."""
    shares: Array
    """The probability of each task for each request, (rows, tasks); a row's sum is at most 1.

    With 0 columns, all requests have the same task.
    """

    @classmethod
    def of_one_task(cls, vectors: Array, lengths: Array | None = None) -> "Inputs":
        """Returns the inputs of requests that all have the same task.

        `vectors` are embeddings, (rows, dimensions), and `lengths` are in characters, (rows,); if `lengths` is None,
        every length is 1.
        """
        rows = len(vectors)
        return cls(vectors, np.ones(rows) if lengths is None else lengths, np.empty((rows, 0)))

    def rows(self, which: NDArray[np.bool_] | Indices) -> "Inputs":
        return Inputs(self.vectors[which], self.lengths[which], self.shares[which])

    def without_vectors(self) -> "Inputs":
        return Inputs(self.vectors[:, :0], self.lengths, self.shares)


def task_means(shares: Array, values: Array, mean: float) -> Array:
    """Returns the mean of `values`, (rows,), for each task, (tasks,).

    A row counts for each task with the task's probability, `shares` (rows, tasks). PRIOR_TASK_ROWS rows with the value
    `mean` are added to each task.
    """
    return np.asarray((values @ shares + PRIOR_TASK_ROWS * mean) / (shares.sum(axis=0) + PRIOR_TASK_ROWS))


def mix(shares: Array, means: Array, mean: float) -> Array:
    """Returns the expected value of each row, (rows,): the mean of the tasks' values, weighted by the tasks'
    probabilities.

    `shares` has each row's probabilities of the tasks, (rows, tasks), and `means` the tasks' values, (tasks,). If the
    probabilities of a row add up to less than 1, the value `mean` gets the rest of the weight.
    """
    return np.asarray(mean + shares @ (means - mean))


def folds_of(count: int) -> Indices:
    """Returns a fold for each of `count` rows, (rows,): a random number from 0 to FOLDS - 1, the same in each call."""
    return np.asarray(np.random.default_rng(SEED).permutation(count) % FOLDS)
