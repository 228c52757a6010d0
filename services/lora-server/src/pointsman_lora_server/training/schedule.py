"""The progress of a run, and the learning rate as a function of its steps alone, so that a resumed run repeats it."""

import math
from dataclasses import dataclass, field
from typing import Any

WARM_UP_SHARE = 0.05


def learning_rate_scale(progress: float) -> float:
    """Returns the fraction of the peak learning rate at a progress from 0 to 1: linear warm-up, then a cosine to 0."""
    if progress < WARM_UP_SHARE:
        return progress / WARM_UP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


@dataclass(slots=True)
class StepCounter:
    """Counts the training steps; their planned number adapts to the machine's speed. The learning rate falls to 0 at
    the last planned step.
    """

    steps: int
    """Total number of steps, as planned now."""
    max_steps: int
    """The steps of all epochs."""
    step: int = 0
    """Steps that are done."""
    progress: float = 0.0

    @property
    def left(self) -> int:
        return self.steps - self.step

    def next_scale(self) -> float:
        """Returns the learning rate scale of the next step, taken at its middle."""
        return learning_rate_scale(self.progress + 0.5 * self._progress_per_step())

    def advance(self) -> None:
        self.progress = min(1.0, self.progress + self._progress_per_step())
        self.step += 1

    def replan(self, left: int) -> None:
        """Plans `left` more steps, but no more than all epochs have."""
        self.steps = min(self.step + left, self.max_steps)

    def _progress_per_step(self) -> float:
        return (1.0 - self.progress) / self.left


@dataclass(slots=True)
class RunState:
    """The results of a run so far. A checkpoint contains it, the weights and the optimizer."""

    counter: StepCounter
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    step_seconds: float = 0.0
    """Time spent in steps."""
    elapsed_seconds: float = 0.0
    """Time of the whole run, without what was lost between a checkpoint and a kill."""
    best_value: float = math.inf
    """The lowest value so far; a metric that should be high is negated."""
    best_step: int | None = None
    """The step of the best weights; 0 if they are those of the adapter from which training began."""
    evaluations_since_best: int = 0
