"""The progress and the measurements of a training run, which a checkpoint stores."""

import math
from dataclasses import dataclass, field
from typing import Any

from pointsman_lora_server.training.learning_rate import StepCounter


@dataclass(slots=True)
class RunState:
    """The progress and the measurements of a run so far."""

    counter: StepCounter
    losses: list[float] = field(default_factory=list)
    """The training loss of each step."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """The fields of each event "evaluation" during training, with "step" and "best"."""
    tokens: int = 0
    """Number of tokens in all steps, without padding."""
    step_seconds: float = 0.0
    """Time spent in steps."""
    elapsed_seconds: float = 0.0
    """Duration of the run up to the last checkpoint, without interruptions."""
    best_value: float = math.inf
    """The lowest `Evaluated.value` so far."""
    best_step: int | None = None
    """The step with the best weights; None if nothing was evaluated, 0 if the weights before the first step are the
    best."""
    evaluations_since_best: int = 0
