"""RouterArena (Lu et al., arXiv 2510.00202): what is public of its answers, `cached_results/*.jsonl` of a clone of
github.com/RouteWorks/RouterArena: 809 questions of its split `sub_10`, with score and dollars.

The metrics follow its code (the arena score: `router_evaluation/compute_scores.py`, 4714a9a; the optimality scores:
`llm_evaluation/run.py` of the fork xufan866/RouterArena, 460cfcb, of July 2026):

* Arena: S = (1 + b) A C / (b A + C), with b = 0.1, the mean accuracy A, and C = (log2 200 - log2 c) / (log2 200 - log2
  0.0044), where c is the dollars of 1,000 questions.
* Over the questions that a model answers fully: Opt.Sel is the share at which the cheapest such model is chosen,
  Opt.Acc the sum of the router's scores by their number, Opt.Cost the sum of the cheapest right answers' dollars by
  that of the router's, where the router is right.
* Robustness compares choices for paraphrases of the hidden split, and latency is of a service: neither is measured.

RouterArena's rules forbid to learn from its questions. Routers that learn are shown as a comparison, predicted out of
fold; only the fixed choices could be submitted.
"""

import json
from pathlib import Path

import numpy as np
from pointsman_lab.prediction.evaluation import Evaluation
from pointsman_lab.prediction.inputs import FOLDS, Indices, folds_of
from pointsman_lab.prediction.policy import Target
from pointsman_lab.prediction.report import predict

from benchmarks.routers.contenders import Contender, predicted_router, simple_routers
from benchmarks.routers.curves import oracle
from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import Embedder, ScoreTable, Split

FOLDER = Path("RouterArena/cached_results")
BETA, MAX_USD, MIN_USD = 0.1, 200.0, 0.0044
"""Of the arena score; dollars of 1,000 questions."""
COLUMNS = ("Arena", "accuracy", "$ per 1,000", "Opt.Sel", "Opt.Cost", "Opt.Acc")
SEED = 1


def measure(data: Path, embedder: Embedder) -> Result:
    table = read(data)
    count, random = len(table.texts), np.random.default_rng(SEED)
    rows = [Row(f"always {model}", figures_of(np.full(count, at), table)) for at, model in enumerate(table.models)]
    rows.append(Row("random", figures_of(random.integers(0, len(table.models), count), table)))
    for router in _out_of_fold(table, embedder):
        rows.append(Row(f"{router.name}, out of fold", figures_of(router.predicted.argmax(axis=1), table)))
    rows.append(Row("oracle", figures_of(oracle(table), table)))
    inputs = embedder.inputs(table)
    evaluation = Evaluation(table.texts, table.models, table.scores, table.usd, table.usd.mean(axis=0), inputs.lengths)
    report = predict(evaluation, inputs, ("routerarena",), embedder.fingerprint, Target())
    refused = bool(report.failure)
    best = max(rows[: len(table.models)], key=lambda row: row.figures["Arena"])
    verdict = "refuses" if refused else "accepts"
    data_text = f"{count} questions of sub_10, {len(table.models)} models; `pointsman predict` {verdict} a policy"
    figures = {"arena_best_single": best.figures["Arena"], "refused": float(refused)}
    return Result("RouterArena", data_text, COLUMNS, rows, figures)


def arena_score(accuracy: float, usd_per_1000: float) -> float:
    """Returns the score, from 0 to 1, of an accuracy from 0 to 1."""
    cost = (np.log2(MAX_USD) - np.log2(usd_per_1000)) / (np.log2(MAX_USD) - np.log2(MIN_USD))
    return float((1 + BETA) * accuracy * cost / (BETA * accuracy + cost))


def figures_of(chosen: Indices, table: ScoreTable) -> dict[str, float]:
    rows = np.arange(len(chosen))
    scores, usd = table.scores[rows, chosen], table.usd[rows, chosen]
    accuracy, usd_per_1000 = float(scores.mean()), 1000 * float(usd.mean())
    costs = np.where(table.scores >= 1, table.usd, np.inf)
    can, right = np.isfinite(costs).any(axis=1), scores >= 1
    is_best = (chosen == costs.argmin(axis=1)) & right & can
    return {
        "Arena": 100 * arena_score(accuracy, usd_per_1000),
        "accuracy": 100 * accuracy,
        "$ per 1,000": usd_per_1000,
        "Opt.Sel": 100 * float(is_best.sum() / can.sum()),
        "Opt.Cost": 100 * float(costs.min(axis=1)[right].sum() / usd[right].sum()),
        "Opt.Acc": 100 * float(scores[can].sum() / can.sum()),
    }


def read(data: Path) -> ScoreTable:
    """Reads all models' answers to the questions that each has answered."""
    answers: dict[str, dict[str, tuple[float, float]]] = {}
    texts: dict[str, str] = {}
    files = [file for file in sorted((data / FOLDER).glob("*.jsonl")) if file.stat().st_size]
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                texts[row["global_index"]] = row["question"]
                result = row["evaluation_result"]
                answers.setdefault(row["global_index"], {})[file.stem] = result["score"], result["inference_cost"]
    complete = {index: of_text for index, of_text in answers.items() if len(of_text) == len(files)}
    models = tuple(file.stem for file in files)
    values = np.array([[of_text[model] for model in models] for of_text in complete.values()], float)
    sets = np.array([index.rsplit("_", 1)[0] for index in complete])
    return ScoreTable([texts[index] for index in complete], sets, models, values[:, :, 0], values[:, :, 1])


def _out_of_fold(table: ScoreTable, embedder: Embedder) -> list[Contender]:
    """Returns each learning router with its predictions for every row from a fit to the other folds."""
    folds, found = folds_of(len(table.texts)), dict[str, Contender]()
    for fold in range(FOLDS):
        split = Split(table.rows(folds != fold), table.rows(folds == fold))
        learned, tested = embedder.inputs(split.learned), embedder.inputs(split.tested)
        for router in [*simple_routers(split, embedder), predicted_router("predicted", split, learned, tested)]:
            whole = found.setdefault(
                router.name, Contender(router.name, np.empty_like(table.scores), np.empty_like(table.usd))
            )
            whole.predicted[folds == fold], whole.expected_usd[folds == fold] = router.predicted, router.expected_usd
    return list(found.values())
