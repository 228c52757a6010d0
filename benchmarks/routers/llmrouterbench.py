"""LLMRouterBench (Li et al., arXiv 2601.07206), and its metrics, by which other tables of scores are measured as well.

The metrics are those of the README of github.com/ynulihao/LLMRouterBench (0e267fb):

* AvgAcc: the mean accuracy over all data sets, each counting the same.
* Gain@R, Gain@B, Gap@O: the relative gain over the random router and over the best single model (that with the highest
  AvgAcc), and the relative gap to the oracle. They are means over the data sets of the relative difference in each: of
  the two readings of "relative", this one gives the README's figure 7 (dataset oracle: Gain@R 69.3 %), not that of the
  AvgAcc (49.8 % by its table 7).
* PerfGain: the relative gain in AvgAcc over the best single model at the point with the highest AvgAcc. CostSave: the
  largest saving at an AvgAcc that is not below the best single model's. Both are maxima over points of a curve that the
  test rows choose, as in the README; they flatter every router with many points.
* ParetoDist, the mean distance to the Pareto frontier, is left out: how its axes are scaled is not stated.

The data are read from a folder as the benchmark's archive has it,
`results/bench/<dataset>/<split>/<model>/<time>.json`, and split by data set at 70 %, as there
(`baselines/data_loader.py`), but with other random numbers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pointsman_lab.prediction.choice import choose, prices_to_try

from benchmarks.routers.contenders import Contender, predicted_router, simple_routers, tell_sets
from benchmarks.routers.curves import oracle
from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import Embedder, ScoreTable, Split

FOLDER = Path("LLMRouterBench/results/bench")
SEEDS = (42, 999, 2024)
LEARNED_SHARE = 0.7
COLUMNS = ("AvgAcc", "Gain@R, %", "Gain@B, %", "Gap@O, %", "PerfGain, %", "CostSave, %")
PREDICTED, TOLD, MEANS = "predicted, one task", "predicted, told sets", "means of told sets"


def measure(data: Path, embedder: Embedder) -> Result:
    """Measures each seed's split, and returns the means."""
    table = read(data)
    found = []
    for seed in SEEDS:
        split = _split(table, seed)
        found.append(figures_of(contenders(split, embedder), split.tested))
    rows = [
        Row(name, {key: float(np.mean([one[name][key] for one in found])) for key in found[0][name]})
        for name in found[0]
    ]
    size = f"{len(table.texts)} texts of {len(set(table.sets))} data sets, {len(table.models)} models"
    data_text = f"{size}, means over {len(SEEDS)} splits"
    return Result("LLMRouterBench", data_text, COLUMNS, rows, {row.name: row.figures["AvgAcc"] for row in rows})


def contenders(split: Split, embedder: Embedder) -> list[Contender]:
    learned, tested = embedder.inputs(split.learned), embedder.inputs(split.tested)
    told = tell_sets(split, learned, tested, embedder)
    return [
        *simple_routers(split, embedder),
        predicted_router(PREDICTED, split, learned, tested),
        predicted_router(MEANS, split, told.learned.without_vectors(), told.tested.without_vectors()),
        predicted_router(TOLD, split, told.learned, told.tested),
    ]


def figures_of(found: Sequence[Contender], tested: ScoreTable) -> dict[str, dict[str, float]]:
    """Returns the metrics of the baselines and of each router at its best predicted score, by name."""
    by_set = {name: tested.sets == name for name in np.unique(tested.sets)}
    scores, rows = tested.scores, np.arange(len(tested.texts))
    of_models = np.array([scores[mask].mean(axis=0) for mask in by_set.values()])
    best = int(of_models.mean(axis=0).argmax())

    def per_set(values: np.ndarray) -> np.ndarray:
        return np.array([values[mask].mean() for mask in by_set.values()])

    random, single, best_answers = per_set(scores.mean(axis=1)), of_models[:, best], per_set(scores.max(axis=1))
    accuracies = {
        "random": random,
        "best single model": single,
        **{each.name: per_set(scores[rows, each.predicted.argmax(axis=1)]) for each in found},
        "dataset oracle": of_models.max(axis=1),
        "oracle": per_set(scores[rows, oracle(tested)]),
    }
    figures = {
        name: {
            "AvgAcc": 100 * float(each.mean()),
            "Gain@R, %": _relative(each, random),
            "Gain@B, %": _relative(each, single),
            "Gap@O, %": -_relative(each, best_answers),
        }
        for name, each in accuracies.items()
    }
    if tested.usd.any():
        for each in found:
            figures[each.name] |= _with_costs(each, tested, single, best, by_set)
    return figures


def read(data: Path) -> ScoreTable:
    """Reads the newest file of each data set and model; only texts that all models answered count."""
    answers: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for folder in sorted(path for path in (data / FOLDER).glob("*/*/*") if path.is_dir()):
        files = sorted(folder.glob("*.json"))
        if files:
            records = json.loads(files[-1].read_text("utf-8"))["records"]
            for record in records:
                key = folder.parent.parent.name, str(record["prompt"])
                answers.setdefault(key, {})[folder.name] = float(record["score"]), float(record["cost"])
    models = sorted({model for of_text in answers.values() for model in of_text})
    complete = {key: of_text for key, of_text in answers.items() if len(of_text) == len(models)}
    values = np.array([[of_text[model] for model in models] for of_text in complete.values()])
    texts, sets = [text for _, text in complete], np.array([name for name, _ in complete])
    return ScoreTable(texts, sets, tuple(models), np.clip(values[:, :, 0], 0, 1), values[:, :, 1])


def _with_costs(
    router: Contender, tested: ScoreTable, single: np.ndarray, best: int, by_set: Mapping[str, np.ndarray]
) -> dict[str, float]:
    rows, gains, savings = np.arange(len(tested.texts)), [-np.inf], [0.0]
    for price in prices_to_try(tested.usd.mean(axis=0)):
        chosen = choose(router.predicted, router.expected_usd, price)
        accuracy = np.mean([tested.scores[rows, chosen][mask].mean() for mask in by_set.values()])
        gains.append(float(accuracy / single.mean() - 1))
        if gains[-1] >= 0:
            savings.append(1 - float(tested.usd[rows, chosen].sum() / tested.usd[:, best].sum()))
    return {"PerfGain, %": 100 * max(gains), "CostSave, %": 100 * max(savings)}


def _relative(values: np.ndarray, others: np.ndarray) -> float:
    known = others > 0
    return 100 * float((values[known] / others[known] - 1).mean())


def _split(table: ScoreTable, seed: int) -> Split:
    learned, random = np.zeros(len(table.texts), bool), np.random.default_rng(seed)
    for name in np.unique(table.sets):
        rows = random.permutation(np.flatnonzero(table.sets == name))
        learned[rows[: round(LEARNED_SHARE * len(rows))]] = True
    return Split(table.rows(learned), table.rows(~learned))
