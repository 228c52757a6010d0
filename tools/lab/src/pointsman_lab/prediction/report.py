"""The `predict` command: learns the policy `predicted`, and shows what it gains at each price of a wrong answer.

The policy chooses for each request the path with the highest probability of a good answer minus expected dollars
divided by the price of a wrong answer. Every row is predicted, and the price for a quality is chosen, without that row.
If the lower bound of the gain in utility over the best single path is not above 0, the command exits with 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.routing.predicted import encode_weights

from pointsman_lab.prediction.choice import (
    Outcomes,
    PolicyResult,
    measure_out_of_fold,
    price_for_quality,
    prices_to_try,
)
from pointsman_lab.prediction.evaluation import MIN_ROWS, Evaluation
from pointsman_lab.prediction.fitting import (
    FOLDS,
    Array,
    fit,
    fit_cost,
    folds_of,
    predict_costs_out_of_fold,
    predict_out_of_fold,
)
from pointsman_lab.report import Report, Section

DEFAULT_QUALITY_SHARE = 0.95
"""Of the best single path's quality, if neither a price nor a quality is given."""
SHOWN_STEPS = ("1.0", "2.0", "5.0")
"""The first digits of the prices in the table."""


@dataclass(frozen=True, slots=True)
class Target:
    """The point of the curve that the user wants; by default a share of the best single path's quality."""

    usd_per_wrong_answer: float | None = None
    quality: float | None = None


def predict(evaluation: Evaluation, vectors: Array, encoder: str, target: Target) -> Report:
    """Returns the policy's options; the report fails if the policy is not better than the best single path.

    `vectors` are the texts' embeddings, (rows, dimensions), and `encoder` is their model's fingerprint. Raises
    ConfigError if too few rows have scores of all paths to measure that.
    """
    complete = evaluation.is_complete
    if complete.sum() < MIN_ROWS:
        raise ConfigError(
            f"{complete.sum()} rows have scores of all paths ({', '.join(evaluation.paths)}), "
            f"and {MIN_ROWS} are needed to measure the gain; evaluate the paths with `pointsman eval`"
        )
    usd, lengths = evaluation.filled_usd, evaluation.lengths
    outcomes = Outcomes(
        predict_out_of_fold(vectors, evaluation.scores),
        predict_costs_out_of_fold(vectors, lengths, usd),
        evaluation.scores,
        usd,
    ).rows(complete)
    folds = folds_of(len(complete))[complete]
    prices = prices_to_try(outcomes.usd.mean(axis=0))
    price, result = _at_target(outcomes, folds, prices, target)
    curve = {one: measure_out_of_fold(outcomes, folds, [one] * FOLDS) for one in _shown(prices, price)}
    policy = {
        "predicted": {
            "encoder": encoder,
            "usd_per_wrong_answer": price,
            "paths": _path_options(evaluation, vectors, usd),
        }
    }
    facts = {
        "policy": policy,
        "rows": len(folds),
        "rated": dict(zip(evaluation.paths, map(int, _counts(evaluation)), strict=True)),
        "curve": [_point(one, of_price, evaluation.paths) for one, of_price in curve.items()],
        **_point(price, curve[price], evaluation.paths),
        "gain": result.gain,
        "lower_bound": result.bound,
    }
    page = (_paths_table(evaluation), _curve_table(curve, evaluation.paths), Section("For tasks.yaml", _yaml(policy)))
    return Report(facts, page, _failure(price, result, curve, evaluation.paths))


def _at_target(
    outcomes: Outcomes, folds: NDArray[np.intp], prices: list[float], target: Target
) -> tuple[float, PolicyResult]:
    """Returns the price of a wrong answer, and what the policy gains on rows that did not choose it.

    For a quality, each fold's rows are measured at the price that the other folds choose.
    """
    if target.usd_per_wrong_answer is not None:
        price = target.usd_per_wrong_answer
        return price, measure_out_of_fold(outcomes, folds, [price] * FOLDS)

    def wanted(rows: Outcomes) -> float:
        best = float(rows.scores.mean(axis=0).max())
        return DEFAULT_QUALITY_SHARE * best if target.quality is None else target.quality

    of_folds = [outcomes.rows(folds != fold) for fold in range(FOLDS)]
    found = [price_for_quality(others, prices, wanted(others)) for others in of_folds]
    return price_for_quality(outcomes, prices, wanted(outcomes)), measure_out_of_fold(outcomes, folds, found)


def _shown(prices: list[float], price: float) -> list[float]:
    """Returns the prices that begin with 1, 2 or 5, and the chosen one."""
    return sorted({*(one for one in prices if f"{one:.1e}"[:3] in SHOWN_STEPS), price})


def _path_options(evaluation: Evaluation, vectors: Array, usd: Array) -> Mapping[str, Any]:
    paths = {}
    for at, path in enumerate(evaluation.paths):
        quality, cost = fit(vectors, evaluation.scores[:, at]), fit_cost(vectors, evaluation.lengths, usd[:, at])
        paths[path] = {
            "mean": round(quality.mean, 4),
            "bias": round(quality.bias, 4),
            "weights": encode_weights(quality.weights),
            "cost_bias": round(cost.bias, 4),
            "cost_length_weight": round(cost.length_weight, 4),
        } | ({"cost_weights": encode_weights(cost.weights)} if cost.weights.any() else {})
    return paths


def _point(price: float, result: PolicyResult, paths: tuple[str, ...]) -> dict[str, Any]:
    return {
        "usd_per_wrong_answer": price,
        "quality": result.quality,
        "usd_per_1000": 1000 * result.usd,
        "best_single_path": paths[result.best],
        "gain": result.gain,
        "lower_bound": result.bound,
        "gain_at_equal_cost": result.gain_at_equal_cost,
    }


def _failure(price: float, result: PolicyResult, curve: Mapping[float, PolicyResult], paths: tuple[str, ...]) -> str:
    """Returns why the policy must not be used; empty if it gains."""
    if result.bound > 0:
        return ""
    better = [_decimal(one) for one, of_price in curve.items() if of_price.bound > 0]
    advice = f"choose another price (it gains at {', '.join(better)}), or evaluate" if better else "or evaluate"
    return (
        f"at ${_decimal(price)} for a wrong answer the policy is not better than always {paths[result.best]} "
        f"({result.gain:+.4f}, at least {result.bound:+.4f}); keep that path, {advice} more rows"
    )


def _decimal(value: float) -> str:
    """Returns a number with up to six digits, and never with an exponent."""
    return f"{Decimal(f'{value:.6g}'):f}"


def _paths_table(evaluation: Evaluation) -> Section:
    means = np.nanmean(evaluation.scores, axis=0)
    counts, usd = _counts(evaluation), evaluation.mean_usd
    rows = tuple(
        (path, str(count), f"{mean:.3f}", f"{1000 * cost:.4f}")
        for path, count, mean, cost in zip(evaluation.paths, counts, means, usd, strict=True)
    )
    heading = f"Paths on {len(evaluation.texts)} rows, {evaluation.is_complete.sum()} of them with scores of all"
    return Section(heading, (), ("path", "rows", "quality", "$ per 1,000"), rows)


def _counts(evaluation: Evaluation) -> NDArray[np.int_]:
    """Returns the number of rows with a score, (paths,)."""
    return np.asarray((~np.isnan(evaluation.scores)).sum(axis=0))


def _curve_table(curve: Mapping[float, PolicyResult], paths: tuple[str, ...]) -> Section:
    lines = (
        "Each row is predicted without itself. Utility: quality - lambda x dollars; lambda = 1 / $ of a wrong answer.",
        "Gain: in utility over the best single path at this price, at least at 95 %; then in quality at equal cost.",
    )
    columns = (
        "$ of a wrong answer", "lambda", "quality", "$ per 1,000", "best single path", "gain", "at least", "equal cost",
    )  # fmt: skip
    rows = tuple(
        (
            _decimal(price), _decimal(1 / price), f"{one.quality:.3f}", f"{1000 * one.usd:.4f}", paths[one.best],
            f"{one.gain:+.4f}", f"{one.bound:+.4f}", f"{one.gain_at_equal_cost:+.4f}",
        )
        for price, one in curve.items()
    )  # fmt: skip
    return Section("The policy by the price of a wrong answer", lines, columns, rows)


def _yaml(policy: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(yaml.safe_dump({"policy": policy}, sort_keys=False, width=2**20).splitlines())
