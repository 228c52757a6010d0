"""The training loop: steps that fit into the time, warm-up and cosine, progress told at each step."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pointsman_lora_server.training.base import Learner
from pointsman_lora_server.training.batches import Batch

WARM_UP_SHARE = 0.05
MOST_GRADIENT = 1.0
TOKENS_AT_ONCE = 128  # of logits: 128 x vocabulary in fp32 stays in memory that malloc keeps
TIMED_STEPS = 3
SPARE = 0.08  # of the training time, for a machine that gets busier


class Tell(Protocol):
    def __call__(self, event: str, **facts: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Pace:
    seconds_per_token: float  # padding counted

    def of(self, batches: Sequence[Batch]) -> float:
        return self.seconds_per_token * sum(map(_padded, batches))


@dataclass(frozen=True, slots=True)
class Outcome:
    steps: int
    tokens: int
    loss: float  # mean over the last tenth of the steps
    stopped_early: bool


def measure(learner: Learner, batches: Sequence[Batch]) -> Pace:
    """Does a few steps on a typical batch and takes them back: the weights stay as they are.

    The fastest one counts. A machine that happens to be busy now may not stay so, and `train` copes with one that does.
    """
    batch = sorted(batches, key=_padded)[len(batches) // 2]
    _backward(learner, batch)  # the first one is slow: memory is fetched, kernels are chosen
    seconds = []
    for _ in range(TIMED_STEPS):
        started = time.monotonic()
        _backward(learner, batch)
        seconds.append(time.monotonic() - started)
    for weight in learner.weights():
        weight.grad = None
    return Pace(min(seconds) / _padded(batch))


def fit(batches: Sequence[Batch], pace: Pace, seconds: float) -> list[Batch]:
    """As many of the batches, from the first on, as the time allows."""
    left = seconds * (1 - SPARE)
    fitting: list[Batch] = []
    for batch in batches:
        left -= pace.of([batch])
        if left < 0:
            break
        fitting.append(batch)
    return fitting


def train(
    learner: Learner,
    batches: Sequence[Batch],
    learning_rate: float,
    ends_at: float,
    half_way: Callable[[], None],
    tell: Tell,
) -> Outcome:
    """`ends_at` is on the monotonic clock. Should the machine slow down, the loop stops there, and the learning rate
    has come down by then: it follows the time where that runs ahead of the steps.
    """
    began = time.monotonic()
    allowed = max(ends_at - began, 1.0)
    optimizer = torch.optim.AdamW(learner.weights(), lr=learning_rate, weight_decay=0.0, fused=True)
    losses: list[float] = []
    tokens, busy = 0, 0.0
    for step, batch in enumerate(batches, start=1):
        started = time.monotonic()
        if losses and started + busy / len(losses) > ends_at:
            return Outcome(len(losses), tokens, _recent(losses), stopped_early=True)
        progress = min(1.0, max((step - 0.5) / len(batches), (started - began) / allowed))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * scale(progress)
        losses.append(_backward(learner, batch))
        torch.nn.utils.clip_grad_norm_(learner.weights(), MOST_GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(example.ids) for example in batch)
        busy += time.monotonic() - started
        tell(
            "step",
            step=step,
            steps=len(batches),
            loss=round(losses[-1], 4),
            tokens_per_second=round(tokens / busy, 1),
            eta_seconds=round((len(batches) - step) * busy / step, 1),
        )
        if step == len(batches) // 2:
            half_way()
    return Outcome(len(losses), tokens, _recent(losses), stopped_early=False)


def scale(progress: float) -> float:
    """The share of the peak learning rate at a progress of 0 to 1: linear up, then a cosine down to 0."""
    if progress < WARM_UP_SHARE:
        return progress / WARM_UP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


def token_losses(learner: Learner, hidden: Any, targets: Any) -> Any:
    return torch.nn.functional.cross_entropy(learner.logits(hidden), targets, reduction="sum")


def _backward(learner: Learner, batch: Batch) -> float:
    """Adds the batch's gradients; the loss, a mean over its learnt tokens.

    The output layer goes forward and back in slices, and what they send back goes through the model once: the logits
    of a whole batch (100 MB for 500 tokens) never exist.
    """
    with learner.autocast():
        hidden, targets = learner.states(batch)
        reached = hidden.detach().requires_grad_()
        total = 0.0
        for states, wanted in zip(reached.split(TOKENS_AT_ONCE), targets.split(TOKENS_AT_ONCE), strict=True):
            loss = token_losses(learner, states, wanted) / len(targets)
            loss.backward()
            total += loss.item()
    hidden.backward(reached.grad)
    return total


def _padded(batch: Batch) -> int:
    return len(batch) * max(len(example.ids) for example in batch)


def _recent(losses: Sequence[float]) -> float:
    return statistics.fmean(losses[-max(1, len(losses) // 10) :]) if losses else math.nan
