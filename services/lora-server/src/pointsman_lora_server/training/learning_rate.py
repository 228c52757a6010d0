"""The learning rate of each training step: a linear warm-up, then a cosine that falls to 0 at the last planned step."""

import math
from dataclasses import dataclass

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
