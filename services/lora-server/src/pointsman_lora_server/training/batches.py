"""Conversations -> token ids with the prompt's length -> the batches of a whole run, in order.

What turns text into tokens is handed in, so that nothing here needs a tokenizer's package.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.errors import DataError
from pointsman_lora_server.training.preferences import Preference

# (messages, whether the assistant's turn is to be opened) -> token ids, by the model's own chat template
Render = Callable[[Sequence[Message], bool], list[int]]

GROUPED_BATCHES = 16
"""Rows are sorted by length within stretches of so many batches: little padding, still much shuffling."""


class Row(Protocol):
    @property
    def length(self) -> int:
        """Tokens that it costs."""


@dataclass(frozen=True, slots=True)
class Example:
    ids: tuple[int, ...]
    prompt_length: int  # tokens before the answer: read, not learnt
    source: Conversation

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: self.prompt_length]

    @property
    def learnt(self) -> int:
        return len(self.ids) - self.prompt_length

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """The preferred answer to a prompt, and the other one."""

    chosen: Example
    rejected: Example

    @property
    def length(self) -> int:
        return self.chosen.length + self.rejected.length


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True, slots=True)
class Encoded(Generic[AnyRow]):
    rows: tuple[AnyRow, ...]
    notes: tuple[str, ...]  # rows left out for their length


def encode(rows: Sequence[Conversation], render: Render, end_of_turn: int, most_tokens: int) -> Encoded[Example]:
    """Rows longer than `most_tokens` are left out and noted: cut short they would teach an answer that breaks off."""
    examples: list[Example] = []
    notes: list[str] = []
    for row in rows:
        example = _encode_row(row, render, end_of_turn)
        if example.length > most_tokens:
            notes.append(_too_long(row.where, example.length, most_tokens))
        else:
            examples.append(example)
    return Encoded(tuple(examples), tuple(notes))


def encode_pairs(
    pairs: Sequence[Preference], render: Render, end_of_turn: int, most_tokens: int
) -> Encoded[PreferencePair]:
    """As `encode`; each of the two answers counts for itself."""
    made: list[PreferencePair] = []
    notes: list[str] = []
    for row in pairs:
        chosen, rejected = (
            _encode_row(Conversation(row.prompt, answer, row.where), render, end_of_turn)
            for answer in (row.chosen, row.rejected)
        )
        longest = max(chosen.length, rejected.length)
        if longest > most_tokens:
            notes.append(_too_long(row.where, longest, most_tokens))
        else:
            made.append(PreferencePair(chosen, rejected))
    return Encoded(tuple(made), tuple(notes))


def _too_long(where: str, tokens: int, most_tokens: int) -> str:
    return f"{where}: left out, its {tokens} tokens are more than {most_tokens}"


def plan(rows: Sequence[AnyRow], epochs: int, tokens_per_step: int, seed: int) -> list[tuple[AnyRow, ...]]:
    """Every batch of every epoch; the same seed gives the same plan."""
    shuffling = random.Random(seed)
    return [batch for _ in range(epochs) for batch in _epoch(rows, tokens_per_step, shuffling)]


def by_length(rows: Sequence[AnyRow], tokens_per_step: int) -> list[tuple[AnyRow, ...]]:
    """Batches of at most `tokens_per_step` tokens, padding counted; a longer row stands alone."""
    return list(_cut(sorted(rows, key=lambda row: row.length), tokens_per_step))


def padded(batch: Sequence[Row]) -> int:
    """Tokens that are computed with."""
    return len(batch) * max(row.length for row in batch)


def _encode_row(row: Conversation, render: Render, end_of_turn: int) -> Example:
    prompt = render(row.prompt, True)
    whole = render((*row.prompt, Message("assistant", row.answer)), False)
    if whole[: len(prompt)] != prompt:
        raise DataError(f"{row.where}: the chat template renders the prompt differently once it is answered")
    # A template may put a line break behind the end of the turn, which is never generated.
    answer = takewhile(lambda token: token != end_of_turn, whole[len(prompt) :])
    return Example((*prompt, *answer, end_of_turn), len(prompt), row)


def _epoch(rows: Sequence[AnyRow], tokens_per_step: int, shuffling: random.Random) -> list[tuple[AnyRow, ...]]:
    shuffled = list(rows)
    shuffling.shuffle(shuffled)
    mean = sum(row.length for row in shuffled) / len(shuffled)
    stretch = max(1, int(GROUPED_BATCHES * tokens_per_step / mean))
    batches = [
        batch
        for start in range(0, len(shuffled), stretch)
        for batch in by_length(shuffled[start : start + stretch], tokens_per_step)
    ]
    shuffling.shuffle(batches)
    return batches


def _cut(ordered: Sequence[AnyRow], tokens_per_step: int) -> Iterator[tuple[AnyRow, ...]]:
    """`ordered` goes from short to long, so that the newest row is the longest of its batch."""
    batch: list[AnyRow] = []
    for row in ordered:
        if batch and (len(batch) + 1) * row.length > tokens_per_step:
            yield tuple(batch)
            batch = []
        batch.append(row)
    if batch:
        yield tuple(batch)
