"""The training loop: runs training steps until a time limit, evaluates the adapter's weights between steps, and
remembers the best weights.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pointsman_lora_server.training.batches import Row, padded_tokens
from pointsman_lora_server.training.learner import Learner, Weights
from pointsman_lora_server.training.learning_rate import StepCounter
from pointsman_lora_server.training.processes import ALONE, Processes
from pointsman_lora_server.training.run_state import RunState

MAX_GRADIENT_NORM = 1.0
TIMED_STEPS = 3
TIME_RESERVE = 0.08
"""Fraction of the training time for which no steps are planned, because the machine may become busier."""
PACE_STEPS = 16
"""Number of latest steps whose mean duration is the current speed of training."""

Batches = Sequence[Sequence[Any]]

SaveCheckpoint = Callable[["TrainingLoop"], None]


class Emit(Protocol):
    """Interface of a function that reports an event of the training run; `event` is its name, and `facts` are its
    fields.

    The implementation in `__main__` prints the event as a line of JSON to stdout, without fields that are None.
    """

    def __call__(self, event: str, **facts: object) -> None: ...


class Objective(Protocol):
    """Interface of the loss that training minimizes; `SftObjective` and `DpoObjective` implement it."""

    def backward(self, batch: Sequence[Any]) -> float:
        """Adds the batch's gradients to those of the adapter's parameters (`.grad`) and returns the batch's loss."""

    def measure(self) -> dict[str, float]:
        """Returns the "loss" on the held-out rows, and optionally more measures, by name; an empty dictionary if there
        are no held-out rows.
        """


@dataclass(frozen=True, slots=True)
class Pace:
    seconds_per_token: float
    """Duration of a training step divided by the number of tokens in its batch, padding included."""

    def seconds_for(self, batches: Sequence[Sequence[Row]]) -> float:
        return self.seconds_per_token * sum(map(padded_tokens, batches))


@dataclass(frozen=True, slots=True)
class LoopOptions:
    learning_rate: float
    """The peak learning rate."""
    ends_at: float
    """The time on the monotonic clock by which all steps and evaluations of the loop must have ended."""
    steps_per_evaluation: int
    evaluation_seconds: float
    """The estimated duration of one evaluation between steps."""
    patience: int
    """Training stops after this number of evaluations in a row without an improvement; 0 disables this."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    value: float
    """The value by which the best weights are chosen, such as the held-out loss; lower is better."""
    facts: dict[str, Any]
    """Fields for the event "evaluation", such as the loss and the scores."""


Evaluate = Callable[[], Evaluated | None]
"""A function that evaluates the adapter's current weights on held-out rows; returns None if there are no held-out
rows."""


def measure_pace(learner: Learner, objective: Objective, batches: Batches) -> Pace:
    """Measures the speed of training by computing gradients for the batch of median size. The weights are not changed.

    Returns the speed of the fastest of `TIMED_STEPS` steps, since other load on the machine may be temporary. If the
    load stays, the training loop later plans fewer steps.
    """
    batch = sorted(batches, key=padded_tokens)[len(batches) // 2]
    objective.backward(batch)  # the first one is slow: memory is allocated and kernels are chosen
    seconds = []
    for _ in range(TIMED_STEPS):
        started = time.monotonic()
        objective.backward(batch)
        seconds.append(time.monotonic() - started)
    for weight in learner.parameters():
        weight.grad = None
    return Pace(min(seconds) / padded_tokens(batch))


def seconds_with_reserve(batches: Batches, pace: Pace) -> float:
    """Returns the estimated seconds of training on all batches, including the reserve that `count_steps_within` deducts
    (`TIME_RESERVE`).
    """
    return pace.seconds_for(batches) / (1 - TIME_RESERVE)


def count_steps_within(batches: Batches, pace: Pace, seconds: float) -> int:
    """Returns the number of batches, counted from the first one, for which training takes at most `seconds` less the
    fraction `TIME_RESERVE`.
    """
    left = seconds * (1 - TIME_RESERVE)
    for count, batch in enumerate(batches):
        left -= pace.seconds_for([batch])
        if left < 0:
            return count
    return len(batches)


class TrainingLoop:
    """Trains the adapter step by step.

    `state` has the progress and measurements of the run, and `best` the weights that evaluated best (None before the
    first evaluation). To resume a run from a checkpoint, construct the loop with the saved `state`, and restore `best`,
    the optimizer's state and the learner's weights.
    """

    def __init__(
        self,
        learner: Learner,
        objective: Objective,
        batches: Batches,
        state: RunState,
        options: LoopOptions,
        emit: Emit,
        processes: Processes = ALONE,
    ) -> None:
        self.learner = learner
        self.state = state
        self.best: Weights | None = None
        self.optimizer = torch.optim.AdamW(learner.parameters(), lr=options.learning_rate, weight_decay=0.0, fused=True)
        self._objective = objective
        self._batches = batches
        self._options = options
        self._emit = emit
        self._processes = processes
        self._recent_seconds: deque[float] = deque(maxlen=PACE_STEPS)

    def run(self, evaluate: Evaluate, save_checkpoint: SaveCheckpoint) -> str:
        """Trains until the planned steps are done or a limit is reached, and returns the reason for the end: "whole"
        (all steps of all epochs are done), "time" (no more steps fit before `LoopOptions.ends_at`) or "patience" (see
        `LoopOptions.patience`).

        Calls `evaluate` every `steps_per_evaluation` steps and at the end, and `save_checkpoint` after each step,
        except after the step at which training ends by "patience".
        """
        counter = self.state.counter
        while counter.left > 0:
            if not self._has_time(counter):
                return self._end(evaluate, "time")
            self._step(counter)
            if counter.left > 0 and counter.step % self._options.steps_per_evaluation == 0:
                self._evaluate(evaluate)
                if 0 < self._options.patience <= self.state.evaluations_since_best:
                    return "patience"
            save_checkpoint(self)
        return self._end(evaluate, "whole" if counter.step == counter.max_steps else "time")

    def evaluate_start(self, evaluate: Evaluate) -> None:
        """Evaluates the weights before the first step, since no later weights may turn out to be better."""
        self._evaluate(evaluate)

    def use_best_weights(self) -> None:
        if self.best is not None:
            self.learner.set_weights(self.best)

    def _end(self, evaluate: Evaluate, reason: str) -> str:
        """Evaluates the weights of the last step, unless they have been evaluated already; returns `reason`."""
        is_done = self.state.evaluations and self.state.evaluations[-1]["step"] == self.state.counter.step
        if self.state.counter.step and not is_done:
            self._evaluate(evaluate)
        return reason

    def _has_time(self, counter: StepCounter) -> bool:
        """Plans as many more steps as fit into the remaining time at the current speed; returns whether at least one
        step fits. Before the first step of this process, it plans nothing and returns True.
        """
        if not self._recent_seconds:
            return True
        evaluations = counter.left // self._options.steps_per_evaluation + 1
        seconds = self._options.ends_at - time.monotonic() - evaluations * self._options.evaluation_seconds
        left = max(0, int(seconds / statistics.fmean(self._recent_seconds)))
        counter.replan(self._processes.agree(left))
        return counter.left > 0

    def _step(self, counter: StepCounter) -> None:
        started = time.monotonic()
        batch = self._batches[counter.step]
        for group in self.optimizer.param_groups:
            group["lr"] = self._options.learning_rate * counter.next_scale()
        self.state.losses.append(self._objective.backward(batch))
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        counter.advance()
        self._recent_seconds.append(time.monotonic() - started)
        self.state.step_seconds += self._recent_seconds[-1]
        self.state.tokens += sum(row.length for row in batch)
        self._emit(
            "step",
            step=counter.step,
            steps=counter.steps,
            loss=round(self.state.losses[-1], 6),
            tokens_per_second=round(self.state.tokens / self.state.step_seconds, 1),
            eta_seconds=round(counter.left * statistics.fmean(self._recent_seconds), 1),
        )

    def _evaluate(self, evaluate: Evaluate) -> None:
        result = evaluate()
        if result is None:
            return
        state = self.state
        is_best = result.value < state.best_value
        if is_best:
            state.best_value, state.best_step, state.evaluations_since_best = result.value, state.counter.step, 0
            self.best = self.learner.weights()
        else:
            state.evaluations_since_best += 1
        facts = {"step": state.counter.step, **result.facts, "best": is_best}
        state.evaluations.append(facts)
        self._emit("evaluation", when="during", **facts)


def recent_loss(losses: Sequence[float]) -> float:
    """Returns the mean of the last tenth of the losses, at least of the last one; NaN if `losses` is empty."""
    return statistics.fmean(losses[-max(1, len(losses) // 10) :]) if losses else math.nan
