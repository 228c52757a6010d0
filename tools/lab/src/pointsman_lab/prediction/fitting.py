"""Learns for each path the probability that it answers a request well, and what its answer will cost.

The probability is a logistic regression on the request's embedding (D. R. Cox, Journal of the Royal Statistical Society
B 20, 1958). A score between 0 and 1 is used as the probability of a good answer. An L2 penalty, chosen by
cross-validation, keeps predictions near the path's mean score if there is little data.

The logarithm of an answer's dollars is a line in the logarithm of the request's length, plus a ridge regression on the
embedding (A. E. Hoerl, R. W. Kennard, Technometrics 12, 1970), whose penalty leave-one-out errors choose.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]  # it ships no types

Array = NDArray[np.float64]

FOLDS, SEED = 5, 7
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1e6)
"""The last one leaves the mean alone."""
COST_PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1e9)
"""The last one leaves the line alone."""
MIN_USD_SHARE = 1e-3
"""Of a path's mean dollars; a logarithm needs more than 0."""
PRIOR_ROWS = 2.0
"""Rows of a score of one half that are added to a path's mean, so that no probability is 0 or 1."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A path's probability of a good answer: sigmoid(bias + weights . embedding)."""

    mean: float
    bias: float
    weights: Array

    def of(self, vectors: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-(vectors @ self.weights + self.bias))))


@dataclass(frozen=True, slots=True)
class CostPrediction:
    """A path's dollars for an answer: mean_usd x exp(bias + length_weight x log(length) + weights . embedding)."""

    mean_usd: float
    bias: float
    length_weight: float
    """From 0, if the length makes no difference, to 1, if the dollars are in proportion to it."""
    weights: Array

    def of(self, vectors: Array, lengths: Array) -> Array:
        """Returns the dollars of rows with these embeddings and characters."""
        logs = self.bias + self.length_weight * np.log(lengths) + vectors @ self.weights
        return np.asarray(self.mean_usd * np.exp(logs))


def fit(vectors: Array, scores: Array) -> Prediction:
    """Fits the prediction of one path from `vectors` (rows, dimensions) and `scores` (rows,) from 0 to 1.

    Rows whose score is NaN are left out.
    """
    known = ~np.isnan(scores)
    vectors, scores = vectors[known], scores[known]
    folds = np.arange(len(scores)) % FOLDS

    def squared_error(penalty: float) -> float:
        return sum(
            float(np.square(_fit(vectors[folds != f], scores[folds != f], penalty).of(vectors[folds == f])
                            - scores[folds == f]).sum())
            for f in range(FOLDS)
        )  # fmt: skip

    return _fit(vectors, scores, min(PENALTIES, key=squared_error))


def _fit(vectors: Array, scores: Array, penalty: float) -> Prediction:
    mean = (scores.sum() + PRIOR_ROWS / 2) / (len(scores) + PRIOR_ROWS)
    center, start = vectors.mean(axis=0), np.log(mean / (1 - mean))
    centered = vectors - center

    def loss(parameters: Array) -> tuple[float, Array]:
        bias, weights = parameters[0], parameters[1:]
        logits = start + bias + centered @ weights
        errors = 1 / (1 + np.exp(-logits)) - scores
        value = np.logaddexp(0, logits).sum() - scores @ logits + (penalty * weights @ weights + bias**2) / 2
        return float(value), np.concatenate([[errors.sum() + bias], centered.T @ errors + penalty * weights])

    found = minimize(loss, np.zeros(vectors.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return Prediction(float(mean), float(start + found[0] - center @ found[1:]), found[1:])


def fit_cost(vectors: Array, lengths: Array, usd: Array) -> CostPrediction:
    """Fits the dollars of one path; `lengths`, in characters, and `usd` are (rows,). NaN dollars are left out."""
    known = ~np.isnan(usd)
    vectors, longer, usd = vectors[known], np.log(lengths[known]), usd[known]
    mean, spread = float(usd.mean()), float(np.square(longer - longer.mean()).sum())
    if mean <= 0 or np.ptp(usd) == 0:
        return CostPrediction(mean, 0.0, 0.0, np.zeros(vectors.shape[1]))
    logs = np.log(np.maximum(usd, MIN_USD_SHARE * mean))
    slope = float((longer - longer.mean()) @ logs) / spread if spread else 0.0
    slope = min(1.0, max(0.0, slope))
    weights = _ridge(vectors - vectors.mean(axis=0), logs - slope * longer)
    bias = -float(np.log(np.exp(slope * longer + vectors @ weights).mean()))  # the mean prediction is the mean
    return CostPrediction(mean, bias, slope, weights)


def _ridge(centered: Array, values: Array) -> Array:
    """Returns the weights, (dimensions,), with the penalty that has the least leave-one-out error."""
    left, singular, right = np.linalg.svd(centered, full_matrices=False)
    values = values - values.mean()
    projected = left.T @ values

    def squared_error(penalty: float) -> float:
        kept = singular**2 / (singular**2 + penalty)
        leverage = np.square(left) @ kept + 1 / len(values)
        return float(np.square((values - left @ (kept * projected)) / (1 - leverage)).sum())

    penalty = min(COST_PENALTIES, key=squared_error)
    if penalty == COST_PENALTIES[-1]:
        return np.zeros(centered.shape[1])
    return np.asarray(right.T @ (singular / (singular**2 + penalty) * projected))


def folds_of(count: int) -> NDArray[np.intp]:
    """Assigns each of `count` rows at random to a fold from 0 to FOLDS - 1, the same for the same `count`."""
    return np.asarray(np.random.default_rng(SEED).permutation(count) % FOLDS)


def predict_out_of_fold(vectors: Array, scores: Array) -> Array:
    """Predicts each row by a fit to other rows.

    `scores` and the result are (rows, paths); scores that are unknown are NaN.
    """
    folds, predicted = folds_of(len(scores)), np.empty_like(scores)
    for fold in range(FOLDS):
        learned, tested = folds != fold, folds == fold
        for path in range(scores.shape[1]):
            predicted[tested, path] = fit(vectors[learned], scores[learned, path]).of(vectors[tested])
    return predicted


def predict_costs_out_of_fold(vectors: Array, lengths: Array, costs: Array) -> Array:
    """Predicts the dollars of each row by a fit to other rows; `costs` and the result are (rows, paths)."""
    folds, predicted = folds_of(len(costs)), np.empty_like(costs)
    for fold in range(FOLDS):
        learned, tested = folds != fold, folds == fold
        for path in range(costs.shape[1]):
            one = fit_cost(vectors[learned], lengths[learned], costs[learned, path])
            predicted[tested, path] = one.of(vectors[tested], lengths[tested])
    return predicted
