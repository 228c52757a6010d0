"""The learning rate of each training step: a linear warm-up, then a cosine that falls to 0 at the last planned step."""

import math
from dataclasses import dataclass

WARM_UP_SHARE = 0.05


def learning_rate_scale(progress: float) -> float:
    """Returns the fraction of the peak learning rate at a `progress` from 0 to 1 of the training.

    It rises linearly to 1 at `WARM_UP_SHARE`, then falls to 0 along a cosine.
    """
    if progress < WARM_UP_SHARE:
        return progress / WARM_UP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


@dataclass(slots=True)
class StepCounter:
    """Counts the training steps, and gives the learning rate of each.

    The planned number of steps may change. The learning rate falls to 0 at the last step that is planned now.
    """

    steps: int
    """Total number of steps, as planned now."""
    max_steps: int
    """Number of steps of all epochs."""
    step: int = 0
    """Number of steps that are done."""
    progress: float = 0.0
    """The position in the learning rate schedule, from 0 to 1."""

    @property
    def left(self) -> int:
        return self.steps - self.step

    def next_scale(self) -> float:
        """Returns the fraction of the peak learning rate for the next step: the schedule's value at the middle of the
        step.
        """
        return learning_rate_scale(self.progress + 0.5 * self._progress_per_step())

    def advance(self) -> None:
        self.progress = min(1.0, self.progress + self._progress_per_step())
        self.step += 1

    def replan(self, left: int) -> None:
        """Plans `left` more steps, but at most `max_steps` in total."""
        self.steps = min(self.step + left, self.max_steps)

    def _progress_per_step(self) -> float:
        return (1.0 - self.progress) / self.left
