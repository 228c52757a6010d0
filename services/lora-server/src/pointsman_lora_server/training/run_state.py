"""The state of a training run: what it has computed so far, as a checkpoint stores it."""

import math
from dataclasses import dataclass, field
from typing import Any

from pointsman_lora_server.training.learning_rate import StepCounter


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
