"""Learns for each path what its answer to a request will cost.

The logarithm of an answer's dollars is predicted as a sum of three parts: the logarithm of the mean dollars of the
request's tasks, a linear function of the logarithm of the request's length, and a ridge regression on the request's
embedding (A. E. Hoerl, R. W. Kennard, Technometrics 12, 1970). The penalty of the regression is the one with the least
leave-one-out error.
"""

from dataclasses import dataclass

import numpy as np

from pointsman_lab.prediction.inputs import FOLDS, Array, Inputs, folds_of, mix, task_means

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1e9)
"""The penalties that are tried for the ridge regression.

The largest one makes the embedding count for nothing, so that only tasks and length matter.
"""
MIN_USD_SHARE = 1e-3
"""Dollars of an answer that are below this share of the path's mean are raised to it, since 0 has no logarithm."""


@dataclass(frozen=True, slots=True)
class CostPrediction:
    """Predicts the dollars of a path's answer to a request.

    The prediction is mean_usd x (mean of `task_factors` by the tasks' probabilities) x exp(bias + length_weight x
    log(length) + weights . embedding), where the length is in characters.
    """

    mean_usd: float
    task_factors: Array
    """The mean dollars of each task's answers as a multiple of `mean_usd`, (tasks,); empty if there is one task."""
    bias: float
    length_weight: float
    """The exponent of the request's length, 0 (the length makes no difference) to 1 (dollars are proportional to the
    length).
    """
    weights: Array
    """The weights of the embedding, (dimensions,)."""

    def of(self, inputs: Inputs) -> Array:
        logs = self.bias + self.length_weight * np.log(inputs.lengths) + inputs.vectors @ self.weights
        return np.asarray(self.mean_usd * mix(inputs.shares, self.task_factors, 1.0) * np.exp(logs))


def fit_cost(inputs: Inputs, usd: Array) -> CostPrediction:
    """Fits the cost prediction of one path to `usd`, the dollars of its answers, (rows,); rows with NaN are left out.

    `inputs` has the embeddings, lengths and task probabilities of the same rows.
    """
    known = ~np.isnan(usd)
    inputs, usd = inputs.rows(known), usd[known]
    vectors, longer = inputs.vectors, np.log(inputs.lengths)
    mean, spread = float(usd.mean()), float(np.square(longer - longer.mean()).sum())
    if mean <= 0 or np.ptp(usd) == 0:
        return CostPrediction(mean, np.ones(inputs.shares.shape[1]), 0.0, 0.0, np.zeros(vectors.shape[1]))
    factors = task_means(inputs.shares, usd / mean, 1.0)
    of_tasks = mix(inputs.shares, factors, 1.0)
    logs = np.log(np.maximum(usd / mean / of_tasks, MIN_USD_SHARE))
    slope = float((longer - longer.mean()) @ logs) / spread if spread else 0.0
    slope = min(1.0, max(0.0, slope))
    weights = _ridge(vectors - vectors.mean(axis=0), logs - slope * longer)
    multiples = of_tasks * np.exp(slope * longer + vectors @ weights)
    bias = -float(np.log(multiples.mean()))  # the mean prediction is the mean
    return CostPrediction(mean, factors, bias, slope, weights)


def predict_costs_out_of_fold(inputs: Inputs, usd: Array) -> Array:
    """Predicts the dollars of each answer by a fit to the rows of other folds.

    `usd`, the true dollars (NaN if unknown), and the result are (rows, paths).
    """
    folds, predicted = folds_of(len(usd)), np.empty_like(usd)
    for fold in range(FOLDS):
        learned, tested = inputs.rows(folds != fold), inputs.rows(folds == fold)
        for path in range(usd.shape[1]):
            predicted[folds == fold, path] = fit_cost(learned, usd[folds != fold, path]).of(tested)
    return predicted


def _ridge(centered: Array, values: Array) -> Array:
    """Returns the weights of the regression, (dimensions,), with the penalty that has the least leave-one-out error."""
    if not centered.shape[1]:
        return np.zeros(0)
    left, singular, right = np.linalg.svd(centered, full_matrices=False)
    values = values - values.mean()
    projected = left.T @ values

    def squared_error(penalty: float) -> float:
        kept = singular**2 / (singular**2 + penalty)
        leverage = np.square(left) @ kept + 1 / len(values)
        return float(np.square((values - left @ (kept * projected)) / (1 - leverage)).sum())

    penalty = min(PENALTIES, key=squared_error)
    if penalty == PENALTIES[-1]:
        return np.zeros(centered.shape[1])
    return np.asarray(right.T @ (singular / (singular**2 + penalty) * projected))
