"""Chooses between two models for each question, as the policy `predicted` does, on RouteLLM's published correctness.

The predictions are learned from half of the questions (`pointsman_lab.prediction`), five times with another half, and
tested on the other half. MMLU counts as one task, and as one for each of its 57 subjects. The published routers learned
from other data (Chatbot Arena's votes and 1,500 questions), and the authors removed questions that were similar to
them; here all 14,042 remain. GSM8K has 1,319 questions.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import StaticModel
from pointsman_gateway.classification.model import Encoder
from pointsman_gateway.classification.reader import token_excerpt
from pointsman_lab.prediction import PRIOR_ROWS, evaluate_policy, fit

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
USD = np.array([0.24, 24.7])
"""Per million tokens, as in RouteLLM's paper."""
SEEDS = (1, 2, 3, 4, 5)
TOLERANCE = 0.15
"""Of the policy."""
SHARES = np.linspace(0, 1, 11)
"""Shares of the questions that the strong model answers, as in RouteLLM's evaluation."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Questions:
    vectors: Array
    scores: Array
    """(questions, 2): whether the weak and the strong model answer correctly, 0 or 1."""
    subjects: NDArray[np.str_]


def measure_mmlu(data: Path, static: StaticModel, encoder: Encoder) -> dict[str, dict[str, float]]:
    """Returns the means over the seeds, and a router that chooses at random."""
    files = sorted((data / "routellm/mmlu").glob("*.csv"))
    mmlu = read_questions(files, static, encoder)
    gsm8k = read_questions([data / "routellm/gsm8k_responses.csv"], static, encoder)
    random = np.random.default_rng(0).random(len(mmlu.scores))
    return {
        **_over_seeds("MMLU as one task", mmlu, np.zeros(len(mmlu.scores), str)),
        **_over_seeds("MMLU as 57 tasks", mmlu, mmlu.subjects),
        "MMLU, at random": figures(mmlu.scores, random),
        **_over_seeds("GSM8K", gsm8k, gsm8k.subjects),
    }


def read_questions(files: Iterable[Path], static: StaticModel, encoder: Encoder) -> Questions:
    texts, scores, subjects = [], [], []
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                texts.append(token_excerpt(row["prompt"], static).text)
                scores.append([row[WEAK] == "True", row[STRONG] == "True"])
                subjects.append(file.stem)
    return Questions(embed(texts, encoder), np.array(scores, float), np.array(subjects))


def embed(texts: Sequence[str], encoder: Encoder) -> Array:
    """Returns (texts, dimensions)."""
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # a batch is padded to its longest
    encoded = np.empty((len(texts), len(encoder.embed(texts[:1])[0])))
    for start in range(0, len(texts), 64):
        batch = by_length[start : start + 64]
        encoded[batch] = encoder.embed([texts[number] for number in batch])
    return encoded


def _over_seeds(name: str, questions: Questions, tasks: NDArray[np.str_]) -> dict[str, dict[str, float]]:
    rounds = [one_seed(questions, tasks, seed) for seed in SEEDS]
    spread = float(np.std([predicted["apgr"] for predicted, _ in rounds], ddof=1))
    rows = {f"{name}, predicted (standard deviation {spread:.3f})": 0, f"{name}, by the tasks' means": 1}
    return {
        row: {key: float(np.mean([each[which][key] for each in rounds])) for key in rounds[0][which]}
        for row, which in rows.items()
    }


def one_seed(questions: Questions, tasks: NDArray[np.str_], seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the figures of the predictions, and of each task's means alone, which are all that `best_value` knows."""
    order = np.random.default_rng(seed).permutation(len(tasks))
    learned, tested = order[: len(order) // 2], order[len(order) // 2 :]
    predicted, means = np.empty((len(tested), 2)), np.empty((len(tested), 2))
    for task in np.unique(tasks):
        of_task, asked = learned[tasks[learned] == task], tasks[tested] == task
        for model in (0, 1):
            scores = questions.scores[of_task, model]
            predicted[asked, model] = fit(questions.vectors[of_task], scores).of(questions.vectors[tested[asked]])
            means[asked, model] = (scores.sum() + PRIOR_ROWS / 2) / (len(scores) + PRIOR_ROWS)
    scores = questions.scores[tested]
    policy = evaluate_policy(predicted, scores, USD, TOLERANCE)
    gains = [each[:, 1] - each[:, 0] for each in (predicted, means)]
    return figures(scores, gains[0]) | {"gain": policy.gain}, figures(scores, gains[1])


def figures(scores: Array, predicted: Array) -> dict[str, float]:
    """Returns RouteLLM's metrics, if the questions of the largest predicted gain go to the strong model.

    APGR is the mean share of the gap between the models that is recovered, over the shares of strong calls. CPT(50) and
    CPT(80) are the percentages of strong calls that recover 50 % and 80 % of it.
    """
    order = np.argsort(-predicted, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((scores[:, 1] - scores[:, 0])[order])])
    recovered = gains[np.round(SHARES * len(order)).astype(int)] / gains[-1]
    percent = {level: 100 * float(np.interp(level / 100, recovered, SHARES)) for level in (50, 80)}
    return {"apgr": float(np.trapezoid(recovered, SHARES)), "cpt50": percent[50], "cpt80": percent[80]}
