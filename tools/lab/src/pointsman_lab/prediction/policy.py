"""Chooses between two ways to predict scores and costs of paths, and makes the options of the policy `predicted`.

The simpler way has the same predictions for all requests of a task; the other way predicts each request from its text.
The simpler way is chosen unless the other one is significantly better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pointsman_gateway.routing.predicted import encode_weights

from pointsman_lab.prediction.choice import (
    Gain,
    Outcomes,
    PolicyResult,
    choose,
    measure_gain,
    measure_out_of_fold,
    price_for_quality,
    prices_to_try,
)
from pointsman_lab.prediction.cost import CostPrediction, fit_cost, predict_costs_out_of_fold
from pointsman_lab.prediction.evaluation import Evaluation
from pointsman_lab.prediction.inputs import FOLDS, Indices, Inputs, folds_of
from pointsman_lab.prediction.quality import Prediction, fit, predict_out_of_fold

DEFAULT_QUALITY_SHARE = 0.95
"""If the user states neither a price nor a quality, the required mean score is this share of the best single path's."""
REQUESTS, TASKS = "requests", "tasks"
"""The two ways to predict: for each request by its text, or only by the request's task."""
MIN_MEAN = 1e-4
"""The lowest mean score that the policy's options may state; the highest mean score is 1 minus this number."""


@dataclass(frozen=True, slots=True)
class Target:
    """The user's weighing of cost against quality, stated by one of the two fields, or by none.

    If both are None, the required mean score is DEFAULT_QUALITY_SHARE of the best single path's.
    """

    usd_per_wrong_answer: float | None = None
    """The dollars that a wrong answer costs."""
    quality: float | None = None
    """The mean score that is required, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to predict how well paths answer, by tasks or by requests, with its results on the evaluated rows.

    Each row is predicted from other rows only.
    """

    name: str
    """The way to predict: `REQUESTS` (each request by its text) or `TASKS` (only by the request's task)."""
    inputs: Inputs
    """The inputs of all rows, including those without scores of all paths."""
    outcomes: Outcomes
    """Predictions and true values of the rows with scores of all paths."""
    folds: Indices
    """The number of the cross-validation fold of each row of `outcomes`, (rows,)."""
    price: float
    """The dollars of a wrong answer that meet the user's target."""
    fold_prices: tuple[float, ...]
    """The dollars of a wrong answer for each fold, found like `price`, but on the rows of the other folds."""
    result: PolicyResult
    """The score, cost and gain of the policy if the rows of each fold are decided with the fold's price in
    `fold_prices`.
    """

    @property
    def chosen(self) -> Indices:
        """Returns the path (column) that is chosen for each row at its fold's price, (rows,)."""
        return choose(self.outcomes.predicted, self.outcomes.expected_usd, np.array(self.fold_prices)[self.folds])

    def at(self, price: float) -> PolicyResult:
        return measure_out_of_fold(self.outcomes, self.folds, [price] * FOLDS)

    def gain_over(self, other: "Candidate") -> Gain:
        """Returns by how much this candidate's choices of paths exceed the other candidate's in mean utility.

        The result has a lower confidence bound. Both candidates choose for the same rows, with the dollars of a wrong
        answer in this candidate's `fold_prices`.
        """
        prices = np.array(self.fold_prices)[self.folds]
        others = choose(other.outcomes.predicted, other.outcomes.expected_usd, prices)
        return measure_gain(self.outcomes, self.chosen, others, prices)


def candidates_of(evaluation: Evaluation, inputs: Inputs, target: Target) -> list[Candidate]:
    """Measures each way to predict by cross-validation: by tasks, if there are several, then by requests.

    Returns one candidate for each way, the simpler one first. `inputs` has the rows of `evaluation`. `target` is the
    user's weighing of cost against quality.
    """
    found = [_measure(REQUESTS, evaluation, inputs, target)]
    if inputs.shares.shape[1]:
        found.insert(0, _measure(TASKS, evaluation, inputs.without_vectors(), target))
    return found


def best_of(candidates: list[Candidate]) -> Candidate:
    """Returns the best way to predict; a later candidate replaces an earlier one only if it is significantly better.

    A candidate must be significantly better than the best single path, and then than the candidate chosen before: the
    95 % lower bound of its gain in utility is above 0. If no candidate is, returns the last one. `candidates` are in
    order, the simplest first.
    """
    best: Candidate | None = None
    for candidate in candidates:
        if candidate.result.bound > 0 and (best is None or candidate.gain_over(best).bound > 0):
            best = candidate
    return best or candidates[-1]


@dataclass(frozen=True, slots=True)
class LearnedPath:
    """The two predictions learned for one path from all rows: the quality of its answers, and their cost."""

    quality: Prediction
    cost: CostPrediction


def learn(candidate: Candidate, evaluation: Evaluation) -> list[LearnedPath]:
    """Fits the predictions of quality and cost for each path of `evaluation`, in its order, to all rows.

    `candidate` says what the predictions may use: the tasks alone, or the requests' embeddings too.
    """
    return [
        LearnedPath(
            fit(candidate.inputs, evaluation.scores[:, at]), fit_cost(candidate.inputs, evaluation.filled_usd[:, at])
        )
        for at in range(len(evaluation.paths))
    ]


def mean_usd_at(
    prices: Sequence[float], learned: Sequence[LearnedPath], candidate: Candidate, evaluation: Evaluation
) -> list[float]:
    """Returns the mean dollars of an answer that the learned policy chooses, for each of `prices` (dollars per wrong
    answer).

    `learned` has the predictions of each path, fitted to all rows. The mean is over the rows of `evaluation` with
    scores of all paths; it uses the true dollars.

    This mean is nearer to the dollars of later requests than the mean in cross-validation: at prices where a little
    more quality is expensive, each fold's policy chooses the expensive paths for another share of the rows.
    """
    predicted = np.stack([one.quality.of(candidate.inputs) for one in learned], axis=1)[evaluation.is_complete]
    expected = np.stack([one.cost.of(candidate.inputs) for one in learned], axis=1)[evaluation.is_complete]
    usd, rows = evaluation.filled_usd[evaluation.is_complete], np.arange(len(predicted))
    return [float(usd[rows, choose(predicted, expected, price)].mean()) for price in prices]


def options_of(
    candidate: Candidate, learned: Sequence[LearnedPath], paths: Sequence[str], tasks: tuple[str, ...], encoder: str
) -> Mapping[str, Any]:
    """Returns the options of the policy `predicted` as in tasks.yaml.

    `learned` has the predictions for each of `paths`. `tasks` are the names of the columns of `Inputs.shares`.
    `encoder` is the fingerprint of the embedding model.
    """
    options = {path: _path_options(one.quality, one.cost, tasks) for path, one in zip(paths, learned, strict=True)}
    embedded = {"encoder": encoder} if candidate.name == REQUESTS else {}
    return embedded | {"usd_per_wrong_answer": candidate.price, "paths": options}


def _measure(name: str, evaluation: Evaluation, inputs: Inputs, target: Target) -> Candidate:
    complete, usd = evaluation.is_complete, evaluation.filled_usd
    predicted, expected = predict_out_of_fold(inputs, evaluation.scores), predict_costs_out_of_fold(inputs, usd)
    outcomes = Outcomes(predicted, expected, evaluation.scores, usd).rows(complete)
    folds = folds_of(len(complete))[complete]
    price, fold_prices = _prices(outcomes, folds, target)
    result = measure_out_of_fold(outcomes, folds, fold_prices)
    return Candidate(name, inputs, outcomes, folds, price, fold_prices, result)


def _prices(outcomes: Outcomes, folds: Indices, target: Target) -> tuple[float, tuple[float, ...]]:
    """Returns the price of a wrong answer that meets `target`, found on all rows, and for each fold on the other
    folds.
    """
    if target.usd_per_wrong_answer is not None:
        return target.usd_per_wrong_answer, (target.usd_per_wrong_answer,) * FOLDS
    prices = prices_to_try(outcomes.usd.mean(axis=0))

    def at_quality(rows: Outcomes) -> float:
        best = float(rows.scores.mean(axis=0).max())
        return price_for_quality(
            rows, prices, DEFAULT_QUALITY_SHARE * best if target.quality is None else target.quality
        )

    return at_quality(outcomes), tuple(at_quality(outcomes.rows(folds != fold)) for fold in range(FOLDS))


def _path_options(quality: Prediction, cost: CostPrediction, tasks: tuple[str, ...]) -> Mapping[str, Any]:
    options: dict[str, Any] = {"mean": _mean(quality.mean), "bias": round(quality.bias, 4)}
    if len(quality.weights):
        options["weights"] = encode_weights(quality.weights)
    if tasks:
        options["task_weight"] = round(quality.task_weight, 4)
        options["tasks"] = {
            task: {"mean": _mean(mean), "cost": float(f"{factor:.4g}")}
            for task, mean, factor in zip(tasks, quality.task_means, cost.task_factors, strict=True)
        }
    options |= {"cost_bias": round(cost.bias, 4), "cost_length_weight": round(cost.length_weight, 4)}
    return options | ({"cost_weights": encode_weights(cost.weights)} if cost.weights.any() else {})


def _mean(value: float) -> float:
    return round(min(max(float(value), MIN_MEAN), 1 - MIN_MEAN), 4)
