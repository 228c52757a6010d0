"""The learning rate of each training step: a linear warm-up, then a cosine that falls to 0 at the last planned step."""

import math
from dataclasses import dataclass

WARM_UP_SHARE = 0.05


def learning_rate_scale(progress: float) -> float:
    """Returns the learning rate as a fraction of its peak; `progress` is the completed fraction of the training, from 0
    to 1.

    The fraction rises linearly from 0 to 1 until `progress` is `WARM_UP_SHARE`, then falls to 0 along a cosine.
    """
    if progress < WARM_UP_SHARE:
        return progress / WARM_UP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


@dataclass(slots=True)
class StepCounter:
    """Counts the completed training steps, and gives the learning rate of the next one.

    The planned number of steps may change during the training. The schedule is then stretched so that the learning rate
    still falls to 0 at the last planned step.
    """

    steps: int
    """Total number of steps in the current plan, completed steps included."""
    max_steps: int
    """Number of steps of all epochs; the plan never has more."""
    step: int = 0
    """Number of completed steps."""
    progress: float = 0.0
    """The current position in the learning rate schedule, from 0 (start) to 1 (end)."""

    @property
    def left(self) -> int:
        return self.steps - self.step

    def next_scale(self) -> float:
        """Returns the learning rate of the next step as a fraction of its peak. It is the schedule's value at the
        middle of that step.
        """
        return learning_rate_scale(self.progress + 0.5 * self._progress_per_step())

    def advance(self) -> None:
        self.progress = min(1.0, self.progress + self._progress_per_step())
        self.step += 1

    def replan(self, left: int) -> None:
        """Sets the planned number of steps to the completed ones plus `left`, but to at most `max_steps`."""
        self.steps = min(self.step + left, self.max_steps)

    def _progress_per_step(self) -> float:
        return (1.0 - self.progress) / self.left
