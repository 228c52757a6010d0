"""Measures the policy `predicted` on the mixed stream: it learns from the validation rows and chooses on the test rows.

Every path answered every row at temperature 0, so a choice's score and dollars are those of the chosen path's answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import MiniLM
from pointsman_lab.prediction.choice import (
    Outcomes,
    best_single,
    measure_out_of_fold,
    measure_policy,
    price_for_quality,
    prices_to_try,
)
from pointsman_lab.prediction.cost import fit_cost, predict_costs_out_of_fold
from pointsman_lab.prediction.evaluation import MIN_ROWS, Evaluation, read_evaluation
from pointsman_lab.prediction.inputs import FOLDS, Inputs, folds_of
from pointsman_lab.prediction.policy import DEFAULT_QUALITY_SHARE
from pointsman_lab.prediction.quality import fit, predict_out_of_fold

RESULT = "mixed-predicted.json"


@dataclass(frozen=True, slots=True)
class Predicted:
    """How good the choices of the policy `predicted` are for one task, compared with always taking the same path."""

    task: str
    learned: int
    """Number of validation rows from which the policy learned."""
    validation_bound: float
    """The lower bound of the policy's gain on validation rows, predicted out of fold. `pointsman predict` rejects a
    policy unless it is above 0, and rejects data of fewer than 100 rows."""
    accepted: bool
    """Whether `pointsman predict` would accept it."""
    shares: dict[str, float]
    """By path, the share of the test rows for which the policy chose it."""
    score: float
    usd_per_1000: float
    gain: float
    """The gain on test rows over the best mix of fixed paths with the same cost, which is known only in hindsight."""
    bound: float
    """The lower bound (one-sided, 95 %) of the gain in utility over the path that is best on the validation rows; it is
    at most `gain`."""
    fixed: str
    """The path with the best score on the validation rows."""
    fixed_score: float
    fixed_usd_per_1000: float


def measure(
    validation: tuple[Path, Path], test: tuple[Path, Path], tasks: Sequence[str], default: str, encoder: MiniLM
) -> list[Predicted]:
    """Measures the policy for each task.

    `validation` and `test` are each a file of rows and the file of the answers to them. The path `default` answers the
    requests of no task and is left out.
    """
    results = []
    for task in tasks:
        known = read_evaluation(*validation, (task,), min_rows=1)
        paths = tuple(sorted(path for path in known.paths if path != default))
        asked = read_evaluation(*test, (task,), min_rows=1)
        results.append(_measure_task(task, _of(known, paths), _of(asked, paths), encoder))
    return results


def best_first(paths: Mapping[str, tuple[float, float]]) -> list[str]:
    """Sorts paths by their mean score and dollars of an answer: the highest score first, the cheaper one in a tie."""
    return sorted(paths, key=lambda path: (-paths[path][0], paths[path][1]))


def write(results: Sequence[Predicted], folder: Path) -> None:
    content = json.dumps([asdict(result) for result in results], indent=1)
    (folder / RESULT).write_text(content + "\n", encoding="utf-8")


def read(folder: Path) -> list[Predicted]:
    """Returns the results stored in a folder; an empty list if there are none."""
    file = folder / RESULT
    return [Predicted(**each) for each in json.loads(file.read_text("utf-8"))] if file.is_file() else []


def _of(evaluation: Evaluation, paths: tuple[str, ...]) -> Evaluation:
    """Returns the evaluation with only these paths, in this order."""
    at = [evaluation.paths.index(path) for path in paths]
    scores, usd, mean_usd = evaluation.scores[:, at], evaluation.usd[:, at], evaluation.mean_usd[at]
    return Evaluation(evaluation.texts, paths, scores, usd, mean_usd, evaluation.lengths)


def _measure_task(task: str, known: Evaluation, asked: Evaluation, encoder: MiniLM) -> Predicted:
    learned, tested = (Inputs.of_one_task(_embed(encoder, each.texts), each.lengths) for each in (known, asked))
    own = Outcomes(
        predict_out_of_fold(learned, known.scores),
        predict_costs_out_of_fold(learned, known.usd),
        known.scores,
        known.usd,
    )
    quality = DEFAULT_QUALITY_SHARE * float(known.scores.mean(axis=0).max())
    price = price_for_quality(own, prices_to_try(known.mean_usd), quality)
    validated = measure_out_of_fold(own, folds_of(len(known.texts)), [price] * FOLDS)
    at_paths = range(len(known.paths))
    new = Outcomes(
        np.stack([fit(learned, known.scores[:, at]).of(tested) for at in at_paths], axis=1),
        np.stack([fit_cost(learned, known.usd[:, at]).of(tested) for at in at_paths], axis=1),
        asked.scores,
        asked.usd,
    )
    fixed = np.full(len(asked.texts), best_single(known.scores, known.usd, price))
    result = measure_policy(new, np.full(len(asked.texts), price), fixed)
    found = {path: (known.scores[:, at].mean(), known.mean_usd[at]) for at, path in enumerate(known.paths)}
    best = known.paths.index(best_first(found)[0])
    return Predicted(
        task=task, learned=len(known.texts), validation_bound=validated.bound,
        accepted=validated.bound > 0 and len(known.texts) >= MIN_ROWS,
        shares=dict(zip(known.paths, map(float, result.shares), strict=True)),
        score=result.quality, usd_per_1000=1000 * result.usd, gain=result.gain_at_equal_cost, bound=result.bound,
        fixed=known.paths[best], fixed_score=float(asked.scores[:, best].mean()),
        fixed_usd_per_1000=1000 * float(asked.mean_usd[best]),
    )  # fmt: skip


def _embed(encoder: MiniLM, texts: Sequence[str]) -> NDArray[np.float64]:
    return np.asarray(encoder.embed(list(texts)), dtype=float)
