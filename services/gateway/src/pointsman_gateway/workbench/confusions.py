"""Examples that the classifier takes for another task when it has not learned from them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pointsman_gateway.classification.examples import Examples
from pointsman_gateway.classification.judging import Judged

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
