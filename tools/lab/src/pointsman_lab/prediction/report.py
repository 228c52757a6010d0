"""The report of the `predict` command: the policy `predicted`, and what it gains at each price of a wrong answer.

The policy chooses for each request the path with the highest probability of a good answer minus expected dollars
divided by the price of a wrong answer. In the measurement, a row is predicted, and its price is chosen, without the row
itself. If the lower bound of the gain in utility over the best single path is not above 0, the command exits with 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.domain import UNKNOWN

from pointsman_lab.prediction.choice import PolicyResult, prices_to_try
from pointsman_lab.prediction.evaluation import MIN_ROWS, Evaluation
from pointsman_lab.prediction.inputs import Inputs
from pointsman_lab.prediction.policy import (
    REQUESTS,
    Candidate,
    Target,
    best_of,
    candidates_of,
    learn,
    mean_usd_at,
    options_of,
)
from pointsman_lab.report import Report, Section

SHOWN_STEPS = ("1.0", "2.0", "5.0")
"""The table shows only prices of a wrong answer that begin with these digits, and the chosen one."""


def predict(evaluation: Evaluation, inputs: Inputs, tasks: Sequence[str], encoder: str, target: Target) -> Report:
    """Fits the policy `predicted`, and reports its options for tasks.yaml and what it gains.

    The report's `failure` is set if the policy is not better than the best single path. `inputs` has the rows of
    `evaluation`. `tasks` are the names of the columns of `Inputs.shares`, or the only task if there are no columns.
    `encoder` is the fingerprint of the embedding model.

    Raises ConfigError if fewer than MIN_ROWS rows have scores of all paths.
    """
    complete = evaluation.is_complete
    if complete.sum() < MIN_ROWS:
        raise ConfigError(
            f"{complete.sum()} rows have scores of all paths ({', '.join(evaluation.paths)}), "
            f"and {MIN_ROWS} are needed to measure the gain; evaluate the paths with `pointsman eval`"
        )
    candidates = candidates_of(evaluation, inputs, target)
    best = best_of(candidates)
    distinguished = tuple(tasks) if inputs.shares.shape[1] else ()
    learned = learn(best, evaluation)
    policy = {"predicted": options_of(best, learned, evaluation.paths, distinguished, encoder)}
    shown = _shown(prices_to_try(best.outcomes.usd.mean(axis=0)), best.price)
    usd = mean_usd_at(shown, learned, best, evaluation)
    curve = {price: replace(best.at(price), usd=of_price) for price, of_price in zip(shown, usd, strict=True)}
    facts = {
        "policy": policy,
        "tasks": list(tasks),
        "predictions": best.name,
        "rows": len(best.folds),
        "rated": dict(zip(evaluation.paths, map(int, _counts(evaluation)), strict=True)),
        "curve": [_point(price, of_price, evaluation.paths) for price, of_price in curve.items()],
        **_point(best.price, curve[best.price], evaluation.paths),
        "gain": best.result.gain,
        "lower_bound": best.result.bound,
    }
    sections = [_paths_table(evaluation), _curve_table(curve, evaluation.paths)]
    if distinguished:
        sections.insert(1, _tasks_section(candidates, best, evaluation, inputs, distinguished))
    sections.append(Section("For tasks.yaml", _yaml(policy, tasks)))
    return Report(facts, tuple(sections), _failure(best, curve, evaluation.paths))


def _shown(prices: list[float], price: float) -> list[float]:
    """Returns the prices that begin with a digit in SHOWN_STEPS, and the chosen price."""
    return sorted({*(one for one in prices if f"{one:.1e}"[:3] in SHOWN_STEPS), price})


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


def _failure(best: Candidate, curve: Mapping[float, PolicyResult], paths: tuple[str, ...]) -> str:
    """Returns why the policy must not be used; empty if it is significantly better than the best single path."""
    result = best.result
    if result.bound > 0:
        return ""
    better = [_decimal(price) for price, of_price in curve.items() if of_price.bound > 0]
    advice = f"choose another price (it gains at {', '.join(better)}), or evaluate" if better else "or evaluate"
    return (
        f"at ${_decimal(best.price)} for a wrong answer the policy is not better than always {paths[result.best]} "
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


def _tasks_section(
    candidates: list[Candidate], best: Candidate, evaluation: Evaluation, inputs: Inputs, tasks: tuple[str, ...]
) -> Section:
    """Returns a section of the report: the gain of choosing by task, the further gain of choosing by request, and for
    each task its best path.
    """
    by_task, by_request = candidates
    more = by_request.gain_over(by_task)
    lines = (
        f"By the means of the tasks alone: gain {by_task.result.gain:+.4f}, at least {by_task.result.bound:+.4f}.",
        f"By each request: {more.mean:+.4f} more, at least {more.bound:+.4f}. "
        f"The policy predicts by {'each request' if best.name == REQUESTS else 'the tasks alone, which is as good'}.",
    )
    likely = np.where(inputs.shares.any(axis=1), inputs.shares.argmax(axis=1), -1)
    rows = []
    for number, task in enumerate(tasks):
        scores = evaluation.scores[evaluation.is_complete & (likely == number)]
        best_path, quality = "", ""
        if len(scores):
            top = int(scores.mean(axis=0).argmax())
            best_path, quality = evaluation.paths[top], f"{scores[:, top].mean():.3f}"
        rows.append((task, str(len(scores)), best_path, quality))
    return Section("Tasks, as the classifier tells them", lines, ("task", "rows", "best path", "quality"), tuple(rows))


def _counts(evaluation: Evaluation) -> NDArray[np.int_]:
    """Returns the number of rows with a score, (paths,)."""
    return np.asarray((~np.isnan(evaluation.scores)).sum(axis=0))


def _curve_table(curve: Mapping[float, PolicyResult], paths: tuple[str, ...]) -> Section:
    lines = (
        "Each row is predicted without itself; only the dollars are those of the policy that all rows have taught.",
        "Utility: quality - lambda x dollars; lambda = 1 / $ of a wrong answer.",
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


def _yaml(policy: Mapping[str, Any], tasks: Sequence[str]) -> tuple[str, ...]:
    """Returns the lines for tasks.yaml: the policy of the only task, or the same policy for each of several tasks.

    For requests of no task, it is written as the default policy.
    """
    named = [task for task in tasks if task != UNKNOWN]
    written: dict[str, Any] = {"policy": policy} if len(tasks) == len(named) == 1 else {}
    if named and not written:
        written["tasks"] = {task: {"policy": policy} for task in named}
    if UNKNOWN in tasks:
        written["default_policy"] = policy
    return tuple(yaml.safe_dump(written, sort_keys=False, width=2**20).splitlines())
