"""The training loop: steps within the time limit, evaluations between them, checkpoints, and the best weights."""

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
from pointsman_lora_server.training.run_state import RunState

MAX_GRADIENT_NORM = 1.0
TIMED_STEPS = 3
TIME_RESERVE = 0.08
"""Fraction of the training time kept for a machine that becomes busier."""
PACE_STEPS = 16
"""Number of recent steps from which the pace is computed."""

Batches = Sequence[Sequence[Any]]

SaveCheckpoint = Callable[["TrainingLoop"], None]


class Emit(Protocol):
    """Reports an event of the run, as one line on stdout."""

    def __call__(self, event: str, **facts: object) -> None: ...


class Objective(Protocol):
    """The loss that training minimizes, with its gradients and its value on held-out rows."""

    def backward(self, batch: Sequence[Any]) -> float:
        """Adds the gradients of the batch to the weights and returns its loss."""

    def measure(self) -> dict[str, float]:
        """Returns the "loss" on the held-out rows, and perhaps more measures; empty if there are no such rows."""


@dataclass(frozen=True, slots=True)
class Pace:
    seconds_per_token: float
    """Padding counts as tokens."""

    def seconds_for(self, batches: Sequence[Sequence[Row]]) -> float:
        return self.seconds_per_token * sum(map(padded_tokens, batches))


@dataclass(frozen=True, slots=True)
class LoopOptions:
    learning_rate: float
    ends_at: float
    """On the monotonic clock; evaluations are included."""
    steps_per_evaluation: int
    evaluation_seconds: float
    patience: int
    """Evaluations without an improvement before training stops; 0: it never does."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    value: float
    """Lower is better."""
    facts: dict[str, Any]


Evaluate = Callable[[], Evaluated | None]
"""None if nothing is held out."""


def measure_pace(learner: Learner, objective: Objective, batches: Batches) -> Pace:
    """Measures the speed of training on a typical batch, whose gradients are discarded.

    The fastest time counts: a machine that is busy now may not stay so, and the loop adapts to one that does.
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


def count_steps_within(batches: Batches, pace: Pace, seconds: float) -> int:
    """Returns the number of leading batches that fit into `seconds`, less the fraction `TIME_RESERVE`."""
    left = seconds * (1 - TIME_RESERVE)
    for count, batch in enumerate(batches):
        left -= pace.seconds_for([batch])
        if left < 0:
            return count
    return len(batches)


class TrainingLoop:
    """Trains step by step; `state` says how far it is, `best` holds the best weights. A checkpoint restores both."""

    def __init__(
        self,
        learner: Learner,
        objective: Objective,
        batches: Batches,
        state: RunState,
        options: LoopOptions,
        emit: Emit,
    ) -> None:
        self.learner = learner
        self.state = state
        self.best: Weights | None = None
        self.optimizer = torch.optim.AdamW(learner.parameters(), lr=options.learning_rate, weight_decay=0.0, fused=True)
        self._objective = objective
        self._batches = batches
        self._options = options
        self._emit = emit
        self._recent_seconds: deque[float] = deque(maxlen=PACE_STEPS)

    def run(self, evaluate: Evaluate, save_checkpoint: SaveCheckpoint) -> str:
        """Trains, and returns why it ended: "whole" (the steps of all epochs are done), "time" or "patience"."""
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
        """Evaluates the weights before the first step, since they may turn out to be the best ones."""
        self._evaluate(evaluate)

    def use_best_weights(self) -> None:
        if self.best is not None:
            self.learner.set_weights(self.best)

    def _end(self, evaluate: Evaluate, reason: str) -> str:
        """Evaluates the weights of the last step, unless that has been done; returns `reason`."""
        is_done = self.state.evaluations and self.state.evaluations[-1]["step"] == self.state.counter.step
        if self.state.counter.step and not is_done:
            self._evaluate(evaluate)
        return reason

    def _has_time(self, counter: StepCounter) -> bool:
        """Adds as many steps to the plan as fit at the recent speed; returns False if none fits."""
        if not self._recent_seconds:
            return True
        evaluations = counter.left // self._options.steps_per_evaluation + 1
        seconds = self._options.ends_at - time.monotonic() - evaluations * self._options.evaluation_seconds
        counter.replan(max(0, int(seconds / statistics.fmean(self._recent_seconds))))
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
    """Returns the mean loss over the last tenth of the steps (one or more); NaN if there are no losses."""
    return statistics.fmean(losses[-max(1, len(losses) // 10) :]) if losses else math.nan
