"""Requests of many kinds in one stream: nine models on 14 data sets, as LLMRouter publishes them.

`LLMRouter` is a clone of github.com/ulab-uiuc/LLMRouter: `data/dcrouter_preprocessed` has the scores, and
`data/example_data` the data set of each question and the models' prices. Tokens are not published, so a cost is
estimated: (characters / 4 + 300) x price. The metrics are LLMRouterBench's, and the mean over all rows.

Half of the rows were used while the predictions were developed; they are learned from, and never tested on.
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.routers.contenders import known_sets, predicted_router
from benchmarks.routers.curves import point_of
from benchmarks.routers.llmrouterbench import COLUMNS, MEANS, PREDICTED, TOLD, contenders, figures_of
from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import Embedder, ScoreTable, Split

SCORES = Path("LLMRouter/data/dcrouter_preprocessed")
QUERIES, MODELS = Path("LLMRouter/data/example_data/query_data"), Path("LLMRouter/data/example_data/llm_candidates")
DEVELOPMENT_SEED = 0
SEEDS = (1, 2, 3)
TESTED_ROWS = 1796
CHARACTERS_PER_TOKEN, ANSWER_TOKENS = 4, 300
MEAN = "mean of all rows"
KNOWN = "predicted, known sets"
TARGETS = {"gain_told": 3.0}


def read(data: Path) -> ScoreTable:
    """Reads each question once, those of the test file first."""
    rows: dict[str, dict[str, float]] = {}
    for part in ("test", "train"):
        for row in json.loads((data / SCORES / f"{part}.json").read_text("utf-8")):
            rows.setdefault(row["question"], row["scores"])
    sets: dict[str, str] = {}
    for part in ("train", "test"):
        with (data / QUERIES / f"default_query_{part}.jsonl").open(encoding="utf-8") as lines:
            sets |= {query["query"].strip(): query["task_name"] for query in map(json.loads, lines)}
    models = sorted(next(iter(rows.values())))
    prices = json.loads((data / MODELS / "default_llm.json").read_text("utf-8"))
    usd_per_token = np.array([(prices[name]["input_price"] + prices[name]["output_price"]) / 2e6 for name in models])
    tokens = np.array([len(text) / CHARACTERS_PER_TOKEN + ANSWER_TOKENS for text in rows])
    scores = np.array([[of_text[name] for name in models] for of_text in rows.values()])
    names = np.array([sets[text.strip()] for text in rows])
    return ScoreTable(list(rows), names, tuple(models), scores, tokens[:, None] * usd_per_token)


def measure(data: Path, embedder: Embedder) -> Result:
    """Returns the means over three splits."""
    table, found = read(data), []
    for seed in SEEDS:
        split = split_of(table, seed)
        inputs = known_sets(split, embedder.inputs(split.learned), embedder.inputs(split.tested))
        routers = [*contenders(split, embedder), predicted_router(KNOWN, split, *inputs)]
        figures = figures_of(routers, split.tested)
        choices = {each.name: each.predicted.argmax(axis=1) for each in routers}
        choices["best single model"] = np.full(len(split.tested.texts), split.learned.best_single)
        for name, chosen in choices.items():
            figures[name] |= {MEAN: 100 * point_of(chosen, split.tested)[1]}
        figures["oracle"] |= {MEAN: 100 * float(split.tested.scores.max(axis=1).mean())}
        figures["random"] |= {MEAN: 100 * float(split.tested.scores.mean())}
        found.append(figures)
    rows = [
        Row(name, {key: float(np.mean([one[name][key] for one in found])) for key in found[0][name]})
        for name in found[0]
    ]
    means = {row.name: row.figures.get(MEAN, 0.0) for row in rows}
    single = means["best single model"]
    return Result(
        "Mixed tasks (LLMRouter)",
        f"{len(table.models)} models, {len(set(table.sets))} data sets, {len(table.texts) - TESTED_ROWS} rows to learn "
        f"from, {TESTED_ROWS} tested, means over {len(SEEDS)} splits; costs are estimates",
        (MEAN, *COLUMNS),
        rows,
        {
            "best_single": single,
            "one_task": means[PREDICTED],
            "told_means": means[MEANS],
            "told": means[TOLD],
            "known": means[KNOWN],
            "gain_told": means[TOLD] - single,
            "gain_told_means": means[MEANS] - single,
        },
        TARGETS,
    )


def split_of(table: ScoreTable, seed: int) -> Split:
    """Returns a split whose tested rows are all outside the half that was used in development."""
    order = np.random.default_rng(DEVELOPMENT_SEED).permutation(len(table.texts))
    fresh = order[len(order) // 2 :]
    tested = np.random.default_rng(seed).permutation(fresh)[:TESTED_ROWS]
    is_tested = np.zeros(len(table.texts), bool)
    is_tested[tested] = True
    return Split(table.rows(~is_tested), table.rows(is_tested))
