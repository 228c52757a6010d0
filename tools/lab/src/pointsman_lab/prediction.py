"""The `predict` command: learns the options of the policy `predicted`, which chooses a path for each request.

It learns from requests with known scores: from an evaluation, from ratings, or from both. For each path it fits a
logistic regression (D. R. Cox, Journal of the Royal Statistical Society B 20, 1958), which predicts from a request's
embedding the probability that the path answers it well. A score between 0 and 1 is used as the probability of a good
answer. An L2 penalty, chosen by cross-validation, keeps predictions near the path's mean score if there is little data.

A row may have scores of some of the paths only. The report compares the policy with the best random mix of two fixed
paths that costs as much, on rows with scores of all paths, none of which was used for its own prediction. If the policy
is not significantly better, the command exits with 1.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pointsman_gateway.config.example_files import numbered_lines
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.domain import PathEvidence
from pointsman_gateway.request_log.evidence import EvidenceKey
from pointsman_gateway.routing.predicted import encode_weights
from scipy.optimize import minimize  # type: ignore[import-untyped]  # it ships no types

from pointsman_lab.report import Report, Section
from pointsman_lab.request_log import RatedRequest

Array = NDArray[np.float64]

FOLDS, SEED = 5, 7
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1e6)
"""The last one leaves the mean alone."""
MIN_ROWS = 100
"""With fewer rows, a gain can hardly be distinguished from chance."""
PRIOR_ROWS = 2.0
"""Rows of a score of one half that are added to a path's mean, so that no probability is 0 or 1."""
ONE_SIDED_Z = 1.645
TOLERANCES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
"""That the report compares."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A path's probability of a good answer: sigmoid(bias + weights . embedding)."""

    mean: float
    bias: float
    weights: Array

    def of(self, vectors: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-(vectors @ self.weights + self.bias))))


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


def predict_out_of_fold(vectors: Array, scores: Array) -> Array:
    """Predicts each row by a fit to other rows.

    `scores` and the result are (rows, paths); scores that are unknown are NaN.
    """
    folds = np.random.default_rng(SEED).permutation(len(scores)) % FOLDS
    predicted = np.empty_like(scores)
    for fold in range(FOLDS):
        learned, tested = folds != fold, folds == fold
        for path in range(scores.shape[1]):
            predicted[tested, path] = fit(vectors[learned], scores[learned, path]).of(vectors[tested])
    return predicted


def choose(predicted: Array, costs: Array, tolerance: float) -> NDArray[np.intp]:
    """Returns the path of each row as the policy `predicted` chooses it; `costs` is (paths,)."""
    is_good = predicted >= predicted.max(axis=1, keepdims=True) - tolerance
    return np.asarray(np.argmin(np.where(is_good, costs, np.inf), axis=1))


@dataclass(frozen=True, slots=True)
class PolicyResult:
    shares: Array
    """Of the rows, by path."""
    quality: float
    usd: float
    """Mean cost of a row."""
    gain: float
    """Mean score minus that of fixed paths, mixed at random so that they cost the same."""
    bound: float
    """One-sided lower bound of the gain, at 95 %."""


def evaluate_policy(predicted: Array, scores: Array, costs: Array, tolerance: float) -> PolicyResult:
    chosen = choose(predicted, costs, tolerance)
    rows = np.arange(len(scores))
    usd = float(costs[chosen].mean())
    mixed = scores @ best_mix(scores.mean(axis=0), costs, usd)
    gains = scores[rows, chosen] - mixed
    error = float(gains.std(ddof=1)) / len(gains) ** 0.5
    shares = np.bincount(chosen, minlength=len(costs)) / len(chosen)
    gain = float(gains.mean())
    return PolicyResult(shares, float(scores[rows, chosen].mean()), usd, gain, gain - ONE_SIDED_Z * error)


def best_mix(means: Array, costs: Array, usd: float) -> Array:
    """Returns the share of requests to send to each path, (paths,), for the best mean score at `usd` or less a request.

    `means` and `costs` are each path's mean score and dollars. More than two paths never do better than two.
    """
    best, shares = -np.inf, np.zeros(len(costs))
    for one in range(len(costs)):
        for other in range(len(costs)):
            if costs[one] > usd + 1e-15:
                continue
            gap = costs[other] - costs[one]
            share = min(1.0, (usd - costs[one]) / gap) if gap > 0 else 0.0
            mean = (1 - share) * means[one] + share * means[other]
            if mean > best:
                best, shares = mean, np.zeros(len(costs))
                shares[one] += 1 - share
                shares[other] += share
    return shares


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the policy `predicted` learns from: each path's score for every request, and what its answers cost.

    The scores come from `pointsman eval`, from ratings, or from both.
    """

    texts: Sequence[str]
    paths: tuple[str, ...]
    scores: Array
    """(rows, paths); NaN if it is unknown."""
    costs: Array
    """(paths,): mean dollars of an answer."""

    @property
    def is_complete(self) -> NDArray[np.bool_]:
        """Returns whether the scores of all paths are known, (rows,)."""
        return np.asarray(~np.isnan(self.scores).any(axis=1))

    def with_rows(self, more: "Evaluation") -> "Evaluation":
        """Returns both, with the paths and the costs of this one; of rows with the same text only this one's."""
        at, texts = [more.paths.index(path) for path in self.paths], set(self.texts)
        new = [row for row, text in enumerate(more.texts) if text not in texts]
        scores = np.concatenate([self.scores, more.scores[new][:, at]])
        return Evaluation([*self.texts, *(more.texts[row] for row in new)], self.paths, scores, self.costs)


def read_evaluation(dataset: Path, answers: Path, task: str, min_rows: int = MIN_ROWS) -> Evaluation:
    """Reads the data set and the answers of `pointsman eval`; leaves out rows that not all paths answered. Rows with
    the same text are one row with their mean scores, so that no row is predicted by its copies.

    Raises ConfigError.
    """
    ids: dict[str, list[str]] = {}
    for number, row in _objects(dataset):
        ids.setdefault(str(_question(row)), []).append(str(row.get("id", number)))
    scores: dict[str, dict[str, float]] = {}
    costs: dict[str, list[float]] = {}
    for _, answer in _objects(answers):
        is_scored = answer.get("outcome") == "ok" and answer["score"] is not None
        if is_scored and answer["task"] == task and answer["path"] != "auto":
            scores.setdefault(answer["path"], {})[str(answer["row"])] = float(answer["score"])
            costs.setdefault(answer["path"], []).append(sum(answer["cost_parts_usd"].values()))
    if len(scores) < 2:
        raise ConfigError(f"{answers} has answers of {len(scores)} paths to task '{task}'; two or more are compared")
    answered = set.intersection(*map(set, scores.values()))
    rows = {text: both for text, same in ids.items() if (both := [row for row in same if row in answered])}
    if len(rows) < min_rows:
        raise ConfigError(f"all paths answered {len(rows)} rows of task '{task}'; {min_rows} are needed to learn from")
    return Evaluation(
        list(rows),
        tuple(scores),
        np.array([[np.mean([of_path[row] for row in same]) for of_path in scores.values()] for same in rows.values()]),
        np.array([np.mean(usd) for usd in costs.values()]),
    )


def to_evaluation(
    requests: Sequence[RatedRequest], known: Mapping[EvidenceKey, PathEvidence], min_ratings: int = MIN_ROWS
) -> Evaluation:
    """Makes rows to learn from out of rated requests whose text is stored, for paths with `min_ratings` or more.

    Requests with the same text become one row with the mean of their ratings: copies would predict each other.

    Raises ConfigError if there are fewer than two such paths, or if the cost of one is not known.
    """
    candidates, ratings = list(known), dict[str, list[list[float]]]()
    for request in requests:
        if request.text and request.ratings.keys() & set(candidates):
            of_text = ratings.setdefault(request.text, [[] for _ in candidates])
            for key, rating in request.ratings.items():
                if key in known:
                    of_text[candidates.index(key)].append(rating)
    means = [np.mean(of_path) if of_path else np.nan for of_text in ratings.values() for of_path in of_text]
    scores = np.array(means, float).reshape(len(ratings), len(candidates))
    counts = (~np.isnan(scores)).sum(axis=0)
    enough = [at for at, count in enumerate(counts) if count >= min_ratings]
    if len(enough) < 2:
        found = ", ".join(f"{key.path} {count}" for key, count in zip(candidates, counts, strict=True))
        untold = sum(not request.text for request in requests)
        stored = f"; {untold} more have no stored text (request_log.store_messages)" if untold else ""
        raise ConfigError(
            f"too few requests are rated ({found}){stored}; two paths need {min_ratings} each: run shadow requests"
        )
    paths = tuple(candidates[at].path for at in enough)
    costs = np.array([known[candidates[at]].mean_cost_usd for at in enough])
    if min_ratings and not costs.all():
        raise ConfigError(f"the cost of path '{paths[int(np.argmin(costs))]}' is not known: it has no recent answers")
    return Evaluation(list(ratings), paths, scores[:, enough], costs)


def _objects(file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        return [(number, json.loads(line)) for number, line in numbered_lines(file.read_text("utf-8-sig"))]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as JSON lines: {error}") from error


def _question(row: Mapping[str, Any]) -> object:
    return row["text"] if "text" in row else row["messages"][-1]["content"]


def predict(evaluation: Evaluation, vectors: Array, encoder: str, tolerance: float) -> Report:
    """Returns the policy's options; the report fails if the policy is not better than fixed paths.

    Raises ConfigError if too few rows have scores of all paths to measure that.
    """
    complete, costs = evaluation.is_complete, evaluation.costs
    if complete.sum() < MIN_ROWS:
        raise ConfigError(
            f"{complete.sum()} rows have scores of all paths ({', '.join(evaluation.paths)}), "
            f"and {MIN_ROWS} are needed to measure the gain; evaluate the paths with `pointsman eval`"
        )
    scores, predicted = evaluation.scores[complete], predict_out_of_fold(vectors, evaluation.scores)[complete]
    results = {each: evaluate_policy(predicted, scores, costs, each) for each in sorted({*TOLERANCES, tolerance})}
    result = results[tolerance]
    fitted = [fit(vectors, evaluation.scores[:, number]) for number in range(len(evaluation.paths))]
    paths = {
        path: {"mean": round(one.mean, 4), "bias": round(one.bias, 4), "weights": encode_weights(one.weights)}
        for path, one in zip(evaluation.paths, fitted, strict=True)
    }
    policy = {"predicted": {"encoder": encoder, "tolerance": tolerance, "paths": paths}}
    facts = {
        "policy": policy,
        "rows": len(scores),
        "rated": dict(zip(evaluation.paths, map(int, _counts(evaluation)), strict=True)),
        "quality": result.quality,
        "usd_per_1000": 1000 * result.usd,
        "gain_at_equal_cost": result.gain,
        "lower_bound": result.bound,
    }
    failure = (
        ""
        if result.bound > 0
        else f"at a tolerance of {tolerance} the policy is not better than fixed paths at equal cost "
        f"({result.gain:+.4f}, at least {result.bound:+.4f}); keep best_value, evaluate more rows, or try another one"
    )
    page = (_paths_table(evaluation), _tolerance_table(results), Section("For tasks.yaml", _yaml(policy)))
    return Report(facts, page, failure)


def _paths_table(evaluation: Evaluation) -> Section:
    means = np.nanmean(evaluation.scores, axis=0)
    rows = tuple(
        (path, str(count), f"{mean:.3f}", f"{1000 * usd:.4f}")
        for path, count, mean, usd in zip(evaluation.paths, _counts(evaluation), means, evaluation.costs, strict=True)
    )
    heading = f"Paths on {len(evaluation.texts)} rows, {evaluation.is_complete.sum()} of them with scores of all"
    return Section(heading, (), ("path", "rows", "quality", "$ per 1,000"), rows)


def _counts(evaluation: Evaluation) -> NDArray[np.int_]:
    """Returns the number of rows with a score, (paths,)."""
    return np.asarray((~np.isnan(evaluation.scores)).sum(axis=0))


def _tolerance_table(results: Mapping[float, PolicyResult]) -> Section:
    line = (
        "Each row is predicted without itself. Gain: above the best mix of fixed paths at equal cost, at least at 95 %."
    )
    columns = ("tolerance", "quality", "$ per 1,000", "gain", "at least")
    rows = tuple(
        (f"{tolerance:g}", f"{one.quality:.3f}", f"{1000 * one.usd:.4f}", f"{one.gain:+.4f}", f"{one.bound:+.4f}")
        for tolerance, one in results.items()
    )
    return Section("The policy by its tolerance", (line,), columns, rows)


def _yaml(policy: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(yaml.safe_dump({"policy": policy}, sort_keys=False, width=2**20).splitlines())
