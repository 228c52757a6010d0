"""How often `pointsman predict` accepts a policy although nothing can be gained: scores are independent of requests.

Three models, 200 rows, random vectors; the dearer models cost more. The price of a wrong answer is the default's, which
reaches 95 % of the best model's score. A gain is stated with a bound at 95 %, so at most 5 % may be accepted.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pointsman_lab.prediction.evaluation import Evaluation
from pointsman_lab.prediction.inputs import Inputs
from pointsman_lab.prediction.policy import Target
from pointsman_lab.prediction.report import predict

from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import Embedder

DRAWS, ROWS, DIMENSIONS = 60, 200, 16
USD = np.array([0.0002, 0.001, 0.005])
MEANS: Mapping[str, tuple[float, ...]] = {
    "means 0.7, 0.7 and 0.7": (0.7, 0.7, 0.7),
    "means 0.6, 0.7 and 0.8": (0.6, 0.7, 0.8),
}
TASKS = ("triage", "chat")
ACCEPTED = "accepted, %"
TARGETS = {"accepted": 5.0}


def measure(data: Path, embedder: Embedder) -> Result:
    rows = []
    for name, means in MEANS.items():
        for tasks in (TASKS[:1], TASKS):
            accepted = sum(_accepts(np.random.default_rng(draw), means, tasks) for draw in range(DRAWS))
            rows.append(Row(f"{name}, {len(tasks)} task{'s' * (len(tasks) > 1)}", {ACCEPTED: 100 * accepted / DRAWS}))
    mean = float(np.mean([row.figures[ACCEPTED] for row in rows]))
    text = f"{DRAWS} draws of {ROWS} rows each, 3 models, scores at random"
    return Result("Nothing to gain", text, (ACCEPTED,), rows, {"accepted": mean}, TARGETS)


def _accepts(random: np.random.Generator, means: tuple[float, ...], tasks: tuple[str, ...]) -> bool:
    vectors = random.normal(0, DIMENSIONS**-0.5, (ROWS, DIMENSIONS))
    scores = (random.random((ROWS, len(means))) < means).astype(float)
    first = random.uniform(0, 1, ROWS)
    shares = np.column_stack([first, 1 - first]) if len(tasks) > 1 else np.empty((ROWS, 0))
    lengths, usd = np.exp(random.uniform(4, 8, ROWS)), np.tile(USD, (ROWS, 1))
    evaluation = Evaluation([""] * ROWS, ("small", "middle", "large"), scores, usd, USD, lengths)
    return not predict(evaluation, Inputs(vectors, lengths, shares), tasks, "", Target()).failure
