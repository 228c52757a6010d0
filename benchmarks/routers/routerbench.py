"""RouterBench (Hu et al., arXiv 2403.12031): eleven models with the score and the dollars of each answer.

Its zero-shot file is a pickle on Hugging Face; RouterDC publishes parts of it as text, in the folder
`RouterDC/datasets/routerbench_zs` of a clone of github.com/shuhao02/RouterDC, with a training and a test file for each
set. The sets ARC-C, MBPP and WinoGrande are small enough to be in every copy. Others are read if they are there.

AIQ follows `evaluation/AIQ.py` of github.com/withmartian/routerbench (cc67d10): the area under the non-decreasing upper
hull of the points (cost, quality) that a router has at different prices of a right answer, extended to the dearest of
all points, divided by the dollars of that point. The oracle takes the cheapest model with the best answer. The gain and
the cost for 95 % of the best quality are ours (`curves`).
"""

import ast
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pointsman_lab.prediction.choice import choose
from pointsman_lab.prediction.evaluation import Evaluation
from pointsman_lab.prediction.policy import Target
from pointsman_lab.prediction.report import predict

from benchmarks.routers.contenders import Contender, predicted_router, simple_routers, tell_sets
from benchmarks.routers.curves import (
    Points,
    by_tolerance,
    by_utility,
    cost_share,
    hull,
    mean_gain,
    oracle,
    point_of,
    singles,
)
from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import Embedder, ScoreTable, Split

FOLDER = Path("RouterDC/datasets/routerbench_zs")
LEARNED_ROWS = 600
SEEDS = (1, 2, 3)
PREDICTED = "predicted"
GAIN, COST_95, COST_99 = "gain, points", "cost for 95 %, %", "cost for 99 %, %"
COLUMNS = ("AIQ", GAIN, COST_95, COST_99)
TARGETS = {"gain": 2.5, "cost_95": 20.0, "printed_off": 5.0}


def read(data: Path) -> Split:
    return Split(_read(data / FOLDER, "train"), _read(data / FOLDER, "test"))


def measure(data: Path, embedder: Embedder) -> Result:
    """Learns from 600 random rows of the training part (means over three draws) and from all of them."""
    whole = read(data)
    draws = [np.random.default_rng(seed).permutation(len(whole.learned.texts))[:LEARNED_ROWS] for seed in SEEDS]
    few = [_curves(Split(whole.learned.rows(draw), whole.tested), embedder) for draw in draws]
    rows = [
        Row(f"{name}, {LEARNED_ROWS} rows", _mean([_figures(draw[name], draw, whole.tested) for draw in few]))
        for name in few[0]
    ]
    full = _curves(whole, embedder, with_sets=True)
    rows += [Row(f"{name}, {len(whole.learned.texts)} rows", _figures(full[name], full, whole.tested)) for name in full]
    usd, score = singles(whole.tested)[whole.tested.best_single]
    printed = [_printed(Split(whole.learned.rows(draw), whole.tested), embedder) for draw in draws]
    by_name = {row.name: row.figures for row in rows}
    own = by_name[f"{PREDICTED}, utility, {LEARNED_ROWS} rows"]
    return Result(
        "RouterBench",
        f"{len(whole.tested.texts)} test rows of {', '.join(sorted(set(whole.tested.sets)))}; best single model "
        f"{whole.tested.models[whole.tested.best_single]}: {100 * score:.1f} at ${1000 * usd:.2f} per 1,000",
        COLUMNS,
        rows,
        {
            "gain": own[GAIN],
            "gain_tolerance": by_name[f"{PREDICTED}, tolerance, {LEARNED_ROWS} rows"][GAIN],
            "cost_95": own[COST_95],
            "dollars_off": max(one.dollars_off for one in printed),
            "printed_off": max(one.printed_off for one in printed),
            "policies_accepted": sum(one.accepted for one in printed),
        },
        TARGETS,
    )


def aiq(points: Points, dearest: float) -> float:
    """Returns the area under the hull of the points up to the cost `dearest`, divided by that cost."""
    corners = hull(points)
    corners = np.concatenate([corners, [[dearest, corners[-1, 1]]]])
    return float(np.trapezoid(corners[:, 1], corners[:, 0]) / dearest)


def baselines(tested: ScoreTable) -> dict[str, Points]:
    """Returns the points of the routers that do not look at requests, by name."""
    models = singles(tested)
    return {
        "random": models.mean(axis=0, keepdims=True),
        "best single model": models[[tested.best_single]],
        "mix of single models": models,
    }


def _curves(split: Split, embedder: Embedder, with_sets: bool = False) -> dict[str, Points]:
    """Returns the points of each router, by name."""
    learned, tested, mean_usd = (
        embedder.inputs(split.learned),
        embedder.inputs(split.tested),
        split.learned.usd.mean(axis=0),
    )
    own = predicted_router(PREDICTED, split, learned, tested)
    at_means = Contender("", own.predicted, np.tile(mean_usd, (len(own.predicted), 1)))
    curves = {
        **baselines(split.tested),
        **{each.name: by_utility(each, split.tested) for each in simple_routers(split, embedder)},
        f"{PREDICTED}, tolerance": by_tolerance(own, split.tested, mean_usd),
        f"{PREDICTED}, utility at mean costs": by_utility(at_means, split.tested),
        f"{PREDICTED}, utility": by_utility(own, split.tested),
    }
    if with_sets:
        told = tell_sets(split, learned, tested, embedder)
        for name, inputs in (
            ("means of told sets", (told.learned.without_vectors(), told.tested.without_vectors())),
            (f"{PREDICTED}, told sets", (told.learned, told.tested)),
        ):
            curves[name] = by_utility(predicted_router(name, split, *inputs), split.tested)
        curves["oracle"] = np.array([point_of(oracle(split.tested), split.tested)])
    return curves


def _figures(points: Points, curves: dict[str, Points], tested: ScoreTable) -> dict[str, float]:
    dearest = max(float(each[:, 0].max()) for each in curves.values())
    return {
        "AIQ": aiq(points, dearest),
        GAIN: 100 * mean_gain(points, tested),
        COST_95: 100 * cost_share(points, tested, 0.95),
        COST_99: 100 * cost_share(points, tested, 0.99),
    }


def _mean(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}


@dataclass(frozen=True)
class Printed:
    """How what `pointsman predict` prints by default compares with what its policy costs on the test rows."""

    accepted: bool
    dollars_off: float
    """The largest difference of expected and true dollars of the chosen test answers, in percent, over the prices of
    the printed table at which the policy is better than the best single model.
    """
    printed_off: float
    """The same for the printed dollars, which are true ones of the learned rows."""


def _printed(split: Split, embedder: Embedder) -> Printed:
    learned, tested = embedder.inputs(split.learned), embedder.inputs(split.tested)
    table = split.learned
    evaluation = Evaluation(table.texts, table.models, table.scores, table.usd, table.usd.mean(axis=0), learned.lengths)
    report = predict(evaluation, learned, ("routerbench",), "minilm", Target())
    own, rows = predicted_router(PREDICTED, split, learned, tested), np.arange(len(split.tested.texts))
    off, printed_off = [0.0], [0.0]
    for point in report.facts["curve"]:
        if point["lower_bound"] > 0:
            chosen = choose(own.predicted, own.expected_usd, point["usd_per_wrong_answer"])
            true = float(split.tested.usd[rows, chosen].mean())
            off.append(abs(float(own.expected_usd[rows, chosen].mean() / true) - 1))
            printed_off.append(abs(point["usd_per_1000"] / (1000 * true) - 1))
    return Printed(not report.failure, 100 * max(off), 100 * max(printed_off))


def _read(folder: Path, part: str) -> ScoreTable:
    csv.field_size_limit(2**30)
    rows: dict[str, tuple[str, list[float], list[float]]] = {}
    models: list[str] = []
    for file in sorted(folder.glob(f"*_{part}.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                models = sorted(name.removesuffix("|total_cost") for name in row if name.endswith("|total_cost"))
                scores, usd = ([row[name + end] for name in models] for end in ("", "|total_cost"))
                if all(scores) and all(usd):
                    rows.setdefault(_text(row["prompt"]), (row["eval_name"], [*map(float, scores)], [*map(float, usd)]))
    sets, all_scores, all_usd = zip(*rows.values(), strict=True)
    return ScoreTable(list(rows), np.array(sets), tuple(models), np.array(all_scores), np.array(all_usd))


def _text(prompt: str) -> str:
    """Returns the text of a cell of the column `prompt`, which is Python code of a list of strings: "['Add', 'two']" is
    "Add" and "two" in two lines. A cell that is no such code is returned as it is.
    """
    try:
        parts = ast.literal_eval(prompt)
    except (SyntaxError, ValueError):
        return prompt
    return "\n".join(parts) if isinstance(parts, list) else prompt
