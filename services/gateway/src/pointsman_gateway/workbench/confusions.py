"""Examples that the classifier takes for another task when it has not learned from them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pointsman_gateway.classification.examples import FOLDS, Examples
from pointsman_gateway.classification.fitted import ENCODER, STATIC, Tuning
from pointsman_gateway.classification.judging import Judged, blend, judge, static_share
from pointsman_gateway.classification.learning import DenseFeatures, Learner, LexicalFeatures, Trial
from pointsman_gateway.classification.lexicon import Corpus
from pointsman_gateway.workbench.progress import Progress

WORST = 3
"""Examples of each confusion."""


@dataclass(frozen=True, slots=True)
class Confusion:
    task: str
    """Whose examples they are."""
    taken_for: str
    count: int
    worst: tuple[int, ...]
    """The rows of the surest mistakes."""


def out_of_fold(
    data: Examples,
    encoded: NDArray[np.float32],
    static: NDArray[np.float32],
    tuning: Tuning,
    progress: Progress,
) -> Judged:
    """What the stages together make of each text; `encoded` and `static` are (texts, dimensions)."""
    learners = {}
    if STATIC in tuning.stages:
        learners[STATIC] = Learner(data, LexicalFeatures(static, Corpus(data.texts)), static, tuning.seed)
    if ENCODER in tuning.stages:
        learners[ENCODER] = Learner(data, DenseFeatures(encoded), encoded, tuning.seed)
    with threadpool_limits(limits=1):
        trials = {name: _tried(name, learner, progress) for name, learner in learners.items()}
    if len(trials) == 1:
        [only] = trials.values()
        return judge(data, only, only.logits)
    share = static_share(data, trials[STATIC].logits, trials[ENCODER].logits)
    return judge(data, trials[ENCODER], blend(trials[STATIC].logits, trials[ENCODER].logits, share))


def _tried(name: str, learner: Learner, progress: Progress) -> Trial:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(f"trying the {name} stage", done, FOLDS)

    return learner.tried(step)


def confusions(data: Examples, judged: Judged) -> list[Confusion]:
    """The most frequent first."""
    wrong = np.flatnonzero(data.inside & (judged.predicted != data.y))
    pairs = Counter((int(data.y[row]), int(judged.predicted[row])) for row in wrong)
    found = []
    for (right, taken_for), count in pairs.items():
        rows = [int(row) for row in wrong if (data.y[row], judged.predicted[row]) == (right, taken_for)]
        worst = sorted(rows, key=lambda row: -float(judged.confidence[row]))[:WORST]
        found.append(Confusion(data.tasks[right], data.tasks[taken_for], count, tuple(worst)))
    return sorted(found, key=lambda confusion: (-confusion.count, confusion.task, confusion.taken_for))
