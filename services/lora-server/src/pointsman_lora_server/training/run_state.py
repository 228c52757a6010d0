"""The progress and the measurements of a training run; checkpoints store them."""

import math
from dataclasses import dataclass, field
from typing import Any

from pointsman_lora_server.training.learning_rate import StepCounter


@dataclass(slots=True)
class RunState:
    """The progress and the measurements of a training run so far."""

    counter: StepCounter
    losses: list[float] = field(default_factory=list)
    """The training loss of each completed step, in order."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """The fields of each event "evaluation" during training, such as "step", the scores, and "best" (whether these
    weights were the best so far)."""
    tokens: int = 0
    """Number of tokens in all completed steps, without padding."""
    step_seconds: float = 0.0
    """Total duration of all completed steps, in seconds, without evaluations."""
    elapsed_seconds: float = 0.0
    """Duration of the run up to the last checkpoint, in seconds; the time between an interruption and its resumption is
    not counted."""
    best_value: float = math.inf
    """The lowest `Evaluated.value` so far; infinite before the first evaluation."""
    best_step: int | None = None
    """The number of the step with the best weights; 0 if the weights before the first step are the best, None if
    nothing was evaluated."""
    evaluations_since_best: int = 0
