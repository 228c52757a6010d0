"""Chooses between two models for each question, as the policy `predicted` does, on RouteLLM's published correctness.

The predictions are learned from half of the questions (`pointsman_lab.prediction`), five times with another half, and
tested on the other half. MMLU counts as one task, and as one for each of its 57 subjects. In further rows both answers
are scored for 200 questions only, as by an evaluation, and one answer for each of the others, as by ratings of traffic.

The published routers learned from other data (Chatbot Arena's votes and 1,500 questions), and the authors removed
questions that were similar to them; here all 14,042 remain. GSM8K has 1,319 questions.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import StaticModel
from pointsman_gateway.classification.excerpt import token_excerpt
from pointsman_gateway.classification.model import SentenceEncoder
from pointsman_lab.prediction.choice import Outcomes, best_single, choose, measure_policy
from pointsman_lab.prediction.inputs import Inputs
from pointsman_lab.prediction.quality import PRIOR_ROWS, fit

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
USD = np.array([0.24, 24.7])
"""Dollars per million tokens, of the weak and of the strong model, as in RouteLLM's paper."""
SEEDS = (1, 2, 3, 4, 5)
USD_PER_WRONG_ANSWER = 163.0
"""The policy's setting, for a million tokens: the strong model is chosen if its predicted score is higher by 0.15,
since the prices in `USD` differ by 24.46."""
BOTH = 200
"""Number of questions for which both answers have a score, if the others have one score."""
SHARES = np.linspace(0, 1, 11)
"""Shares of the questions that the strong model answers, as in RouteLLM's evaluation."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Questions:
    vectors: Array
    scores: Array
    """(questions, 2): whether the weak and the strong model answer correctly, 0 or 1."""
    subjects: NDArray[np.str_]


def measure_mmlu(data: Path, static: StaticModel, encoder: SentenceEncoder) -> dict[str, dict[str, float]]:
    """Measures MMLU; returns the means over the seeds, and the figures of a router that chooses at random."""
    files = sorted((data / "routellm/mmlu").glob("*.csv"))
    mmlu = read_questions(files, static, encoder)
    gsm8k = read_questions([data / "routellm/gsm8k_responses.csv"], static, encoder)
    random = np.random.default_rng(0).random(len(mmlu.scores))
    return {
        **_over_seeds("MMLU as one task", mmlu, np.zeros(len(mmlu.scores), str)),
        **_over_seeds("MMLU as 57 tasks", mmlu, mmlu.subjects),
        "MMLU, at random": figures(mmlu.scores, random),
        **_over_seeds("GSM8K", gsm8k, gsm8k.subjects),
        **_with_ratings("MMLU", mmlu),
        **_with_ratings("GSM8K", gsm8k),
    }


def _with_ratings(name: str, questions: Questions) -> dict[str, dict[str, float]]:
    one_task = np.zeros(len(questions.scores), str)
    sources = {"and no others": only_both, "and a random one": random_ratings, "and the chosen one": ratings_of_chosen}
    rows = {}
    for source, known in sources.items():
        row, _ = _over_seeds(f"{name}, both answers of {BOTH} {source}", questions, one_task, known).items()
        rows[row[0]] = row[1]
    return rows


Known = Callable[[Array, Array, np.random.Generator], Array]
"""Selects from all scores, and the questions' vectors, those that the policy may learn from; the others become NaN."""


def all_scores(vectors: Array, scores: Array, random: np.random.Generator) -> Array:
    return scores


def only_both(vectors: Array, scores: Array, random: np.random.Generator) -> Array:
    return np.where(np.arange(len(scores))[:, None] < BOTH, scores, np.nan)


def random_ratings(vectors: Array, scores: Array, random: np.random.Generator) -> Array:
    return _one_of_others(scores, random.integers(0, 2, len(scores)))


def ratings_of_chosen(vectors: Array, scores: Array, random: np.random.Generator) -> Array:
    """Returns the scores that ratings would give: a policy that learned from both answers chooses the answer, and only
    this one is rated.
    """
    inputs = Inputs.of_one_task(vectors)
    both = inputs.rows(np.arange(BOTH))
    predicted = np.stack([fit(both, scores[:BOTH, model]).of(inputs) for model in (0, 1)], axis=1)
    return _one_of_others(scores, choose(predicted, np.tile(USD, (len(scores), 1)), USD_PER_WRONG_ANSWER))


def _one_of_others(scores: Array, rated: NDArray[np.intp]) -> Array:
    is_known = (np.arange(2) == rated[:, None]) | (np.arange(len(scores))[:, None] < BOTH)
    return np.where(is_known, scores, np.nan)


def read_questions(files: Iterable[Path], static: StaticModel, encoder: SentenceEncoder) -> Questions:
    texts, scores, subjects = [], [], []
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                texts.append(token_excerpt(row["prompt"], static).text)
                scores.append([row[WEAK] == "True", row[STRONG] == "True"])
                subjects.append(file.stem)
    return Questions(embed(texts, encoder), np.array(scores, float), np.array(subjects))


def embed(texts: Sequence[str], encoder: SentenceEncoder) -> Array:
    """Returns the vectors of the texts, of shape (texts, dimensions)."""
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # a batch is padded to its longest
    encoded = np.empty((len(texts), len(encoder.embed(texts[:1])[0])))
    for start in range(0, len(texts), 64):
        batch = by_length[start : start + 64]
        encoded[batch] = encoder.embed([texts[number] for number in batch])
    return encoded


def _over_seeds(
    name: str, questions: Questions, tasks: NDArray[np.str_], known: Known = all_scores
) -> dict[str, dict[str, float]]:
    rounds = [one_seed(questions, tasks, seed, known) for seed in SEEDS]
    spread = float(np.std([predicted["apgr"] for predicted, _ in rounds], ddof=1))
    rows = {f"{name}, predicted (standard deviation {spread:.3f})": 0, f"{name}, by the tasks' means": 1}
    return {
        row: {key: float(np.mean([each[which][key] for each in rounds])) for key in rounds[0][which]}
        for row, which in rows.items()
    }


def one_seed(
    questions: Questions, tasks: NDArray[np.str_], seed: int, known: Known = all_scores
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the figures of the predictions and, to compare, of the mean scores per task, which are all that
    `best_value` knows.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(tasks))
    learned, tested = order[: len(order) // 2], order[len(order) // 2 :]
    vectors, rated = questions.vectors[learned], known(questions.vectors[learned], questions.scores[learned], random)
    predicted, means = np.empty((len(tested), 2)), np.empty((len(tested), 2))
    for task in np.unique(tasks):
        of_task, asked = tasks[learned] == task, tasks[tested] == task
        for model in (0, 1):
            scores = rated[of_task, model]
            learned_task = Inputs.of_one_task(vectors[of_task])
            predicted[asked, model] = fit(learned_task, scores).of(Inputs.of_one_task(questions.vectors[tested[asked]]))
            means[asked, model] = (np.nansum(scores) + PRIOR_ROWS / 2) / ((~np.isnan(scores)).sum() + PRIOR_ROWS)
    scores = questions.scores[tested]
    usd = np.tile(USD, (len(scores), 1))
    fixed = best_single(questions.scores[learned], usd[:1], USD_PER_WRONG_ANSWER)
    at_price, of_fixed = np.full(len(scores), USD_PER_WRONG_ANSWER), np.full(len(scores), fixed)
    policy = measure_policy(Outcomes(predicted, usd, scores, usd), at_price, of_fixed)
    gains = [each[:, 1] - each[:, 0] for each in (predicted, means)]
    return figures(scores, gains[0]) | {"gain": policy.gain_at_equal_cost}, figures(scores, gains[1])


def figures(scores: Array, predicted: Array) -> dict[str, float]:
    """Returns RouteLLM's metrics, if the questions with the largest predicted gain are sent to the strong model.

    APGR is the mean share of the gap between the models that is recovered, over the shares of strong calls. CPT(50) and
    CPT(80) are the percentages of strong calls that recover 50 % and 80 % of it.
    """
    order = np.argsort(-predicted, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((scores[:, 1] - scores[:, 0])[order])])
    recovered = gains[np.round(SHARES * len(order)).astype(int)] / gains[-1]
    percent = {level: 100 * float(np.interp(level / 100, recovered, SHARES)) for level in (50, 80)}
    return {"apgr": float(np.trapezoid(recovered, SHARES)), "cpt50": percent[50], "cpt80": percent[80]}
