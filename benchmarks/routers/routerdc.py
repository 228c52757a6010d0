"""RouterDC (Chen et al., NeurIPS 2024, arXiv 2409.19886): seven models of 7B on five data sets.

`RouterDC/datasets/split2_model7` of a clone of github.com/shuhao02/RouterDC has the official training and test files.
Costs are not published. Of a test file with more rows, 600 random ones are tested. The metrics are LLMRouterBench's.
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.routers.llmrouterbench import MEANS, PREDICTED, TOLD, contenders, figures_of
from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import Embedder, ScoreTable, Split

FOLDER = Path("RouterDC/datasets/split2_model7")
FILES = {
    "MMLU": "mmlu_{}.json",
    "GSM8K": "gsm8k-{}.json",
    "CMMLU": "cmmlu_{}.json",
    "ARC-C": "arc_challenge_{}.json",
    "HumanEval": "humaneval_{}.json",
}
MAX_TESTED = 600
COLUMNS = ("AvgAcc", "Gain@R, %", "Gain@B, %", "Gap@O, %")


def measure(data: Path, embedder: Embedder) -> Result:
    split = Split(_read(data, "train", 10**9), _read(data, "test", MAX_TESTED))
    found = figures_of(contenders(split, embedder), split.tested)
    rows = [Row(name, figures) for name, figures in found.items()]
    names = {"one_task": PREDICTED, "told_means": MEANS, "told": TOLD}
    learned, tested = len(split.learned.texts), len(split.tested.texts)
    text = f"{learned} rows to learn from, {tested} tested, {len(split.tested.models)} models"
    return Result("RouterDC", text, COLUMNS, rows, {key: found[name]["AvgAcc"] for key, name in names.items()})


def _read(data: Path, part: str, at_most: int) -> ScoreTable:
    texts: list[str] = []
    sets: list[str] = []
    scores: list[dict[str, float]] = []
    for name, file in FILES.items():
        rows = json.loads((data / FOLDER / file.format(part)).read_text("utf-8"))
        order = np.random.default_rng(0).permutation(len(rows))[:at_most]
        texts += [rows[row]["question"] for row in order]
        scores += [rows[row]["scores"] for row in order]
        sets += [name] * len(order)
    models = tuple(sorted(set(scores[0]).intersection(*scores)))
    values = np.array([[each[model] for model in models] for each in scores])
    return ScoreTable(texts, np.array(sets), models, values, np.zeros_like(values))
