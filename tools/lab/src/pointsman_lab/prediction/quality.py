"""Learns for each path the probability that it answers a request well.

The probability is a logistic regression (D. R. Cox, Journal of the Royal Statistical Society B 20, 1958) on the logit
of the mean score of the request's tasks and on its embedding. A score between 0 and 1 is used as the probability of a
good answer. An L2 penalty, chosen by cross-validation, keeps predictions near the mean if there is little data. The
logits of the cross-validation also calibrate the result (J. Platt, Advances in Large Margin Classifiers, 1999).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]  # it ships no types

from pointsman_lab.prediction.inputs import FOLDS, Array, Inputs, folds_of, mix, task_means

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1e6)
"""The penalties that are tried for the logistic regression.

The largest one makes the embedding count for nothing, so that only the mean scores matter.
"""
PRIOR_ROWS = 2.0
"""The number of rows with a score of 0.5 that are added to a path's mean, so that no probability is 0 or 1."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicts the probability that a path answers a request well.

    The probability is sigmoid(bias + task_weight x logit(mean score of the request's tasks) + weights . embedding).
    """

    mean: float
    """The path's mean score, 0 to 1."""
    task_means: Array
    """The mean score of each task, (tasks,); empty if there is one task."""
    task_weight: float
    bias: float
    weights: Array
    """The weights of the embedding, (dimensions,); empty if embeddings are not used."""

    def of(self, inputs: Inputs) -> Array:
        return np.asarray(1 / (1 + np.exp(-self.logits(inputs))))

    def logits(self, inputs: Inputs) -> Array:
        return self.bias + self._of_tasks(inputs) + inputs.vectors @ self.weights

    def calibrated(self, shift: float, scale: float) -> "Prediction":
        """Returns a copy whose logits are `shift` + `scale` times the logits of this prediction.

        A linear change of logits corrects probabilities that are too high, too low, too extreme or too cautious.
        """
        bias, weights = shift + scale * self.bias, scale * self.weights
        return Prediction(self.mean, self.task_means, scale * self.task_weight, bias, weights)

    def _of_tasks(self, inputs: Inputs) -> Array:
        if not len(self.task_means):
            return np.zeros(len(inputs.shares))
        return self.task_weight * _logit(mix(inputs.shares, self.task_means, self.mean))


def fit(inputs: Inputs, scores: Array) -> Prediction:
    """Fits the probability of a good answer of one path to `scores`, (rows,), each 0 to 1; rows with NaN are left out.

    `inputs` has the embeddings and task probabilities of the same rows.
    """
    known = ~np.isnan(scores)
    inputs, scores = inputs.rows(known), scores[known]
    folds = np.arange(len(scores)) % FOLDS

    def out_of_fold(penalty: float) -> Array:
        logits = np.empty_like(scores)
        for fold in range(FOLDS):
            learned, tested = folds != fold, folds == fold
            logits[tested] = _fit(inputs.rows(learned), scores[learned], penalty).logits(inputs.rows(tested))
        return logits

    penalties = PENALTIES if inputs.vectors.shape[1] else PENALTIES[-1:]
    logits = {penalty: out_of_fold(penalty) for penalty in penalties}
    penalty = min(logits, key=lambda each: float(np.square(1 / (1 + np.exp(-logits[each])) - scores).sum()))
    return _fit(inputs, scores, penalty).calibrated(*_calibrate(logits[penalty], scores))


def predict_out_of_fold(inputs: Inputs, scores: Array) -> Array:
    """Predicts the probability of a good answer for each row and path by a fit to the rows of other folds.

    `scores` (0 to 1, NaN if unknown) and the result are (rows, paths).
    """
    folds, predicted = folds_of(len(scores)), np.empty_like(scores)
    for fold in range(FOLDS):
        learned, tested = inputs.rows(folds != fold), inputs.rows(folds == fold)
        for path in range(scores.shape[1]):
            predicted[folds == fold, path] = fit(learned, scores[folds != fold, path]).of(tested)
    return predicted


def _fit(inputs: Inputs, scores: Array, penalty: float) -> Prediction:
    mean = float((scores.sum() + PRIOR_ROWS / 2) / (len(scores) + PRIOR_ROWS))
    means = task_means(inputs.shares, scores, mean)
    offsets, center = _logit(mix(inputs.shares, means, mean)), inputs.vectors.mean(axis=0)
    centered = inputs.vectors - center

    def gradient(parameters: Array) -> tuple[float, Array]:
        bias, scale, weights = parameters[0], parameters[1], parameters[2:]
        logits = (1 + scale) * offsets + bias + centered @ weights
        errors = 1 / (1 + np.exp(-logits)) - scores
        value = np.logaddexp(0, logits).sum() - scores @ logits
        value += (penalty * weights @ weights + bias**2 + scale**2) / 2
        slopes = [errors.sum() + bias, errors @ offsets + scale]
        return float(value), np.concatenate([slopes, centered.T @ errors + penalty * weights])

    found = _minimize(gradient, np.zeros(inputs.vectors.shape[1] + 2))
    bias, task_weight, weights = float(found[0] - center @ found[2:]), 1 + float(found[1]), found[2:]
    if not len(means):
        bias, task_weight = bias + task_weight * float(_logit(mean)), 0.0
    return Prediction(mean, means, task_weight, bias, weights)


def _calibrate(logits: Array, scores: Array) -> tuple[float, float]:
    """Returns (shift, scale) of the logits, near 0 and 1 if there are few rows, by the likelihood of the scores."""

    def gradient(parameters: Array) -> tuple[float, Array]:
        shift, scale = parameters
        calibrated = shift + scale * logits
        errors = 1 / (1 + np.exp(-calibrated)) - scores
        value = np.logaddexp(0, calibrated).sum() - scores @ calibrated + (shift**2 + (scale - 1) ** 2) / 2
        return float(value), np.array([errors.sum() + shift, errors @ logits + scale - 1])

    shift, scale = _minimize(gradient, np.array([0.0, 1.0])).tolist()
    return (shift, scale) if scale > 0 else (0.0, 1.0)


def _minimize(gradient: Callable[[Array], tuple[float, Array]], start: Array) -> Array:
    """Returns the parameters for which a function has the least value; `gradient` returns (value, gradient) of the
    function.
    """
    return np.asarray(minimize(gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x)


def _logit(probability: Array | float) -> Array:
    return np.asarray(np.log(probability) - np.log1p(-np.asarray(probability)))
