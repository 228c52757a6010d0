"""How far a run is, and the learning rate there: a function of the steps alone, so that a resumed run repeats it."""

import math
from dataclasses import dataclass, field
from typing import Any

WARM_UP_SHARE = 0.05


def scale(progress: float) -> float:
    """The share of the peak learning rate at a progress of 0 to 1: linear up, then a cosine down to 0."""
    if progress < WARM_UP_SHARE:
        return progress / WARM_UP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


@dataclass(slots=True)
class Course:
    """Counts the steps. Where the machine slows down, what is left is shortened, and the learning rate follows."""

    steps: int
    """All of them, as planned now."""
    step: int = 0
    """Those that are done."""
    progress: float = 0.0

    @property
    def left(self) -> int:
        return self.steps - self.step

    def next_scale(self) -> float:
        """Of the step that comes now: in its middle."""
        return scale(self.progress + 0.5 * self._share())

    def advance(self) -> None:
        self.progress = min(1.0, self.progress + self._share())
        self.step += 1

    def shorten(self, left: int) -> None:
        """Only ever shorter: what is left of the progress is spread over fewer steps."""
        self.steps = self.step + min(left, self.left)

    def _share(self) -> float:
        return (1.0 - self.progress) / self.left


@dataclass(slots=True)
class Record:
    """What a run has come to by now; together with weights and optimizer it is all that a checkpoint holds."""

    course: Course
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    busy: float = 0.0
    """Seconds in steps."""
    elapsed: float = 0.0
    """Seconds of the whole run, without what was lost between a checkpoint and a kill."""
    best_value: float = math.inf
    """The lowest by now; of a metric that should be high, its negative."""
    best_step: int = 0
    stale: int = 0
    """Evaluations since the best one."""
