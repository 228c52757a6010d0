"""Chooses between two models for each MMLU question, on RouteLLM's published correctness of both.

A ridge regression on a question's embeddings learns by how much more often the strong model is right. It learns from
half of the questions, five times with another half; its penalty is chosen by cross-validation within that half. The
published routers learned from other data (Chatbot Arena's votes and 1,500 questions), and the authors removed questions
that were similar to them; here all 14,042 remain.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import StaticModel
from pointsman_gateway.classification.model import Encoder
from pointsman_gateway.classification.reader import token_excerpt

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
SEEDS = (1, 2, 3, 4, 5)
FOLDS = 5
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
SHARES = np.linspace(0, 1, 11)
"""Shares of the questions that the strong model answers, as in RouteLLM's evaluation."""

Array = NDArray[np.float64]


def measure_mmlu(data: Path, static: StaticModel, encoder: Encoder) -> dict[str, dict[str, float]]:
    """Returns the mean over the seeds, and a router that chooses at random."""
    prompts, weak, strong = read_mmlu(data)
    features = embed([token_excerpt(prompt, static).text for prompt in prompts], static, encoder)
    rounds = [one_seed(features, weak, strong, seed) for seed in SEEDS]
    mean = {name: float(np.mean([one[name] for one in rounds])) for name in rounds[0]}
    spread = float(np.std([one["apgr"] for one in rounds], ddof=1))
    random = figures(weak, strong, np.random.default_rng(0).random(len(prompts)))
    return {f"ridge regression, five halves (standard deviation {spread:.3f})": mean, "random": random}


def read_mmlu(data: Path) -> tuple[list[str], Array, Array]:
    """Returns the prompts, and whether each model answers them correctly, 0 or 1."""
    prompts, weak, strong = [], [], []
    for file in sorted((data / "routellm/mmlu").glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                prompts.append(row["prompt"])
                weak.append(row[WEAK] == "True")
                strong.append(row[STRONG] == "True")
    return prompts, np.array(weak, float), np.array(strong, float)


def embed(texts: Sequence[str], static: StaticModel, encoder: Encoder) -> Array:
    """Returns both models' unit vectors of each text, (texts, dimensions)."""
    sums = np.stack([static.sum_of(text) for text in texts]).astype(float)
    units = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # a batch is padded to its longest
    encoded = np.empty((len(texts), len(encoder.embed(texts[:1])[0])))
    for start in range(0, len(texts), 64):
        batch = by_length[start : start + 64]
        encoded[batch] = encoder.embed([texts[number] for number in batch])
    return np.concatenate([encoded, units], axis=1)


def one_seed(features: Array, weak: Array, strong: Array, seed: int) -> dict[str, float]:
    order = np.random.default_rng(seed).permutation(len(features))
    learned, tested = order[: len(order) // 2], order[len(order) // 2 :]
    gain = strong - weak
    penalty = best_penalty(features[learned], gain[learned])
    predicted = predict(features[learned], gain[learned], features[tested], penalty)
    return figures(weak[tested], strong[tested], predicted)


def best_penalty(features: Array, gain: Array) -> float:
    folds = np.arange(len(features)) % FOLDS

    def squared_error(penalty: float) -> float:
        errors = [
            gain[folds == fold]
            - predict(features[folds != fold], gain[folds != fold], features[folds == fold], penalty)
            for fold in range(FOLDS)
        ]
        return float(np.square(np.concatenate(errors)).mean())

    return min(PENALTIES, key=squared_error)


def predict(features: Array, gain: Array, new: Array, penalty: float) -> Array:
    """Ridge regression (A. Hoerl and R. Kennard, Technometrics 12, 1970) around the means."""
    center, mean = features.mean(axis=0), gain.mean()
    centered = features - center
    weights = np.linalg.solve(centered.T @ centered + penalty * np.eye(features.shape[1]), centered.T @ (gain - mean))
    return np.asarray(mean + (new - center) @ weights)


def figures(weak: Array, strong: Array, predicted: Array) -> dict[str, float]:
    """Returns RouteLLM's metrics, if the questions of the largest predicted gain go to the strong model.

    APGR is the mean share of the gap between the models that is recovered, over the shares of strong calls. CPT(50) and
    CPT(80) are the percentages of strong calls that recover 50 % and 80 % of it.
    """
    order = np.argsort(-predicted, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    recovered = gains[np.round(SHARES * len(order)).astype(int)] / gains[-1]
    percent = {level: 100 * float(np.interp(level / 100, recovered, SHARES)) for level in (50, 80)}
    return {"apgr": float(np.trapezoid(recovered, SHARES)), "cpt50": percent[50], "cpt80": percent[80]}
