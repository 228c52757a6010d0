"""The training loop: steps that fit into the time, evaluations between them, checkpoints, the best weights kept."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pointsman_lora_server.training.batches import Row, padded
from pointsman_lora_server.training.learner import Learner, Weights
from pointsman_lora_server.training.schedule import Course, Record

MOST_GRADIENT = 1.0
TIMED_STEPS = 3
SPARE = 0.08  # of the training time, for a machine that gets busier
RECENT = 16  # steps that the pace is told from

Batches = Sequence[Sequence[Any]]


class Tell(Protocol):
    def __call__(self, event: str, **facts: object) -> None: ...


class Objective(Protocol):
    """What is learnt."""

    def backward(self, batch: Sequence[Any]) -> float:
        """Adds the batch's gradients to the weights; its loss."""

    def measure(self) -> dict[str, float]:
        """On held-out rows: "loss", and what else there is; empty without such rows."""


@dataclass(frozen=True, slots=True)
class Pace:
    seconds_per_token: float  # padding counted

    def of(self, batches: Sequence[Sequence[Row]]) -> float:
        return self.seconds_per_token * sum(map(padded, batches))


@dataclass(frozen=True, slots=True)
class LoopOptions:
    learning_rate: float
    ends_at: float  # on the monotonic clock; evaluations are included
    evaluate_every: int  # steps
    evaluation_seconds: float
    patience: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    value: float  # the lower the better
    facts: dict[str, Any]


Evaluate = Callable[[], Evaluated | None]  # None where nothing is held out
Keep = Callable[["TrainingLoop"], None]


def measure(learner: Learner, objective: Objective, batches: Batches) -> Pace:
    """Does a few steps on a typical batch and takes them back: the weights stay as they are.

    The fastest one counts: a machine that is busy now may not stay so, and the loop copes with one that does.
    """
    batch = sorted(batches, key=padded)[len(batches) // 2]
    objective.backward(batch)  # the first one is slow: memory is fetched, kernels are chosen
    seconds = []
    for _ in range(TIMED_STEPS):
        started = time.monotonic()
        objective.backward(batch)
        seconds.append(time.monotonic() - started)
    for weight in learner.parameters():
        weight.grad = None
    return Pace(min(seconds) / padded(batch))


def fit(batches: Batches, pace: Pace, seconds: float) -> int:
    """How many of the batches, from the first on, the time allows."""
    left = seconds * (1 - SPARE)
    for count, batch in enumerate(batches):
        left -= pace.of([batch])
        if left < 0:
            return count
    return len(batches)


class TrainingLoop:
    """`record` says where it stands, `best` holds the best weights; both are a checkpoint's where it was resumed."""

    def __init__(
        self, learner: Learner, objective: Objective, batches: Batches, record: Record, terms: LoopOptions, tell: Tell
    ) -> None:
        self.learner = learner
        self.record = record
        self.best: Weights | None = None
        self.optimizer = torch.optim.AdamW(learner.parameters(), lr=terms.learning_rate, weight_decay=0.0, fused=True)
        self._objective = objective
        self._batches = batches
        self._terms = terms
        self._tell = tell
        self._recent: deque[float] = deque(maxlen=RECENT)

    def run(self, evaluate: Evaluate, keep: Keep) -> str:
        """Why it ended: "whole", "time" or "patience"."""
        course = self.record.course
        while course.left > 0:
            if not self._fits(course):
                return self._end(evaluate, "time")
            self._step(course)
            if course.left > 0 and course.step % self._terms.evaluate_every == 0:
                self._evaluate(evaluate)
                if 0 < self._terms.patience <= self.record.stale:
                    return "patience"
            keep(self)
        return self._end(evaluate, "whole")

    def use_best(self) -> None:
        if self.best is not None:
            self.learner.set_weights(self.best)

    def _end(self, evaluate: Evaluate, why: str) -> str:
        """Nothing is measured twice at one step."""
        done = self.record.evaluations and self.record.evaluations[-1]["step"] == self.record.course.step
        if self.record.course.step and not done:
            self._evaluate(evaluate)
        return why

    def _fits(self, course: Course) -> bool:
        """Shortens the rest to what the pace of late allows; false where that is nothing."""
        if not self._recent:
            return True
        evaluations = course.left // self._terms.evaluate_every + 1
        seconds = self._terms.ends_at - time.monotonic() - evaluations * self._terms.evaluation_seconds
        course.shorten(max(0, int(seconds / statistics.fmean(self._recent))))
        return course.left > 0

    def _step(self, course: Course) -> None:
        started = time.monotonic()
        batch = self._batches[course.step]
        for group in self.optimizer.param_groups:
            group["lr"] = self._terms.learning_rate * course.next_scale()
        self.record.losses.append(self._objective.backward(batch))
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), MOST_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        course.advance()
        self._recent.append(time.monotonic() - started)
        self.record.busy += self._recent[-1]
        self.record.tokens += sum(row.length for row in batch)
        self._tell(
            "step",
            step=course.step,
            steps=course.steps,
            loss=round(self.record.losses[-1], 6),
            tokens_per_second=round(self.record.tokens / self.record.busy, 1),
            eta_seconds=round(course.left * statistics.fmean(self._recent), 1),
        )

    def _evaluate(self, evaluate: Evaluate) -> None:
        found = evaluate()
        if found is None:
            return
        record = self.record
        better = found.value < record.best_value
        if better:
            record.best_value, record.best_step, record.stale = found.value, record.course.step, 0
            self.best = self.learner.weights()
        else:
            record.stale += 1
        facts = {"step": record.course.step, **found.facts, "best": better}
        record.evaluations.append(facts)
        self._tell("evaluation", when="during", **facts)


def recent_loss(losses: Sequence[float]) -> float:
    """The mean over the last tenth of the steps."""
    return statistics.fmean(losses[-max(1, len(losses) // 10) :]) if losses else math.nan
