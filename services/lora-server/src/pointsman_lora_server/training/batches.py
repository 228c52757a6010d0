"""Conversations as token ids, the batches of a whole run in order, and the learning rate of each step.

The function that renders text as tokens is passed in, so that no tokenizer package is needed here.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Generic, Protocol, TypeVar

from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.exits import DataError

Render = Callable[[Sequence[Message], bool], list[int]]
"""(messages, whether to open the assistant's turn) -> token ids, by the model's own chat template."""

BATCHES_PER_GROUP = 16
"""Rows are sorted by length within groups of this many batches: little padding, but still much shuffling."""

WARM_UP_SHARE = 0.05


class Row(Protocol):
    @property
    def length(self) -> int:
        """Returns the number of tokens to compute for the row."""


class PreferenceRow(Protocol):
    """A prompt with a preferred and a rejected answer, such as `methods.dpo.Preference`."""

    @property
    def prompt(self) -> tuple[Message, ...]: ...
    @property
    def chosen(self) -> str: ...
    @property
    def rejected(self) -> str: ...
    @property
    def where(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation as token ids, of which the answer is learnt."""

    ids: tuple[int, ...]
    prompt_length: int
    """Number of leading tokens that are read but not learnt."""
    source: Conversation

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: self.prompt_length]

    @property
    def answer_length(self) -> int:
        """Returns the number of tokens that are learnt."""
        return len(self.ids) - self.prompt_length

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """The preferred and the rejected answer to a prompt, as token ids."""

    chosen: Example
    rejected: Example

    @property
    def length(self) -> int:
        return self.chosen.length + self.rejected.length


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True, slots=True)
class Encoded(Generic[AnyRow]):
    rows: tuple[AnyRow, ...]
    notes: tuple[str, ...]
    """Rows that were left out because of their length."""


def encode(rows: Sequence[Conversation], render: Render, end_of_turn: int, max_tokens: int) -> Encoded[Example]:
    """Turns conversations into token ids, without those longer than `max_tokens`: cut answers would be learnt."""
    examples: list[Example] = []
    notes: list[str] = []
    for row in rows:
        example = _encode_row(row, render, end_of_turn)
        if example.length > max_tokens:
            notes.append(_too_long(row.where, example.length, max_tokens))
        else:
            examples.append(example)
    return Encoded(tuple(examples), tuple(notes))


def encode_pairs(
    pairs: Sequence[PreferenceRow], render: Render, end_of_turn: int, max_tokens: int
) -> Encoded[PreferencePair]:
    """Turns pairs of answers into token ids; leaves out a pair if one of its answers is longer than `max_tokens`."""
    encoded: list[PreferencePair] = []
    notes: list[str] = []
    for row in pairs:
        chosen, rejected = (
            _encode_row(Conversation(row.prompt, answer, row.where), render, end_of_turn)
            for answer in (row.chosen, row.rejected)
        )
        longest = max(chosen.length, rejected.length)
        if longest > max_tokens:
            notes.append(_too_long(row.where, longest, max_tokens))
        else:
            encoded.append(PreferencePair(chosen, rejected))
    return Encoded(tuple(encoded), tuple(notes))


def _too_long(where: str, tokens: int, max_tokens: int) -> str:
    return f"{where}: left out, its {tokens} tokens are more than {max_tokens}"


def plan_batches(rows: Sequence[AnyRow], epochs: int, tokens_per_step: int, seed: int) -> list[tuple[AnyRow, ...]]:
    """Returns every batch of every epoch; the same seed gives the same batches, so a resumed run repeats them."""
    shuffler = random.Random(seed)
    return [batch for _ in range(epochs) for batch in _plan_epoch(rows, tokens_per_step, shuffler)]


def batch_by_length(rows: Sequence[AnyRow], tokens_per_step: int) -> list[tuple[AnyRow, ...]]:
    """Groups rows into batches of at most `tokens_per_step` tokens with padding; a longer row is a batch of its own."""
    return list(_cut(sorted(rows, key=lambda row: row.length), tokens_per_step))


def padded_tokens(batch: Sequence[Row]) -> int:
    """Returns the number of tokens that are computed for a batch, padding included."""
    return len(batch) * max(row.length for row in batch)


def _encode_row(row: Conversation, render: Render, end_of_turn: int) -> Example:
    prompt = render(row.prompt, True)
    whole = render((*row.prompt, Message("assistant", row.answer)), False)
    if whole[: len(prompt)] != prompt:
        raise DataError(f"{row.where}: the chat template renders the prompt differently once it is answered")
    # A template may add a line break after the end of the turn, which is never generated.
    answer = takewhile(lambda token: token != end_of_turn, whole[len(prompt) :])
    return Example((*prompt, *answer, end_of_turn), len(prompt), row)


def _plan_epoch(rows: Sequence[AnyRow], tokens_per_step: int, shuffler: random.Random) -> list[tuple[AnyRow, ...]]:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    mean = sum(row.length for row in shuffled) / len(shuffled)
    group_size = max(1, int(BATCHES_PER_GROUP * tokens_per_step / mean))
    batches = [
        batch
        for start in range(0, len(shuffled), group_size)
        for batch in batch_by_length(shuffled[start : start + group_size], tokens_per_step)
    ]
    shuffler.shuffle(batches)
    return batches


def _cut(ordered: Sequence[AnyRow], tokens_per_step: int) -> Iterator[tuple[AnyRow, ...]]:
    """Cuts rows, sorted from short to long, into batches: the row to add is the longest of its batch."""
    batch: list[AnyRow] = []
    for row in ordered:
        if batch and (len(batch) + 1) * row.length > tokens_per_step:
            yield tuple(batch)
            batch = []
        batch.append(row)
    if batch:
        yield tuple(batch)


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
