"""Conversations -> token ids with the prompt's length -> the batches of a whole run, in order.

What turns text into tokens is handed in, so that nothing here needs a tokenizer's package.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.errors import DataError

# (messages, whether the assistant's turn is to be opened) -> token ids, by the model's own chat template
Render = Callable[[Sequence[Message], bool], list[int]]

GROUPED_BATCHES = (
    16  # rows are sorted by length within stretches of so many batches: little padding, still much shuffling
)


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


@dataclass(frozen=True, slots=True)
class Encoded:
    examples: tuple[Example, ...]
    notes: tuple[str, ...]  # rows left out for their length


Batch = tuple[Example, ...]


def encode(rows: Sequence[Conversation], render: Render, end_of_turn: int, most_tokens: int) -> Encoded:
    """Rows longer than `most_tokens` are left out and noted: cut short they would teach an answer that breaks off."""
    examples: list[Example] = []
    notes: list[str] = []
    for row in rows:
        example = _encode_row(row, render, end_of_turn)
        if len(example.ids) > most_tokens:
            notes.append(f"{row.where}: left out, its {len(example.ids)} tokens are more than {most_tokens}")
        else:
            examples.append(example)
    return Encoded(tuple(examples), tuple(notes))


def plan(examples: Sequence[Example], epochs: int, tokens_per_step: int, seed: int) -> list[Batch]:
    """Every batch of every epoch; the same seed gives the same plan."""
    shuffling = random.Random(seed)
    return [batch for _ in range(epochs) for batch in _epoch(examples, tokens_per_step, shuffling)]


def by_length(examples: Sequence[Example], tokens_per_step: int) -> list[Batch]:
    """Batches of at most `tokens_per_step` tokens, padding counted; a longer row stands alone."""
    return list(_cut(sorted(examples, key=lambda example: len(example.ids)), tokens_per_step))


def _encode_row(row: Conversation, render: Render, end_of_turn: int) -> Example:
    prompt = render(row.prompt, True)
    whole = render((*row.prompt, Message("assistant", row.answer)), False)
    if whole[: len(prompt)] != prompt:
        raise DataError(f"{row.where}: the chat template renders the prompt differently once it is answered")
    # A template may put a line break behind the end of the turn, which is never generated.
    answer = takewhile(lambda token: token != end_of_turn, whole[len(prompt) :])
    return Example((*prompt, *answer, end_of_turn), len(prompt), row)


def _epoch(examples: Sequence[Example], tokens_per_step: int, shuffling: random.Random) -> list[Batch]:
    shuffled = list(examples)
    shuffling.shuffle(shuffled)
    mean = sum(len(example.ids) for example in shuffled) / len(shuffled)
    stretch = max(1, int(GROUPED_BATCHES * tokens_per_step / mean))
    batches = [
        batch
        for start in range(0, len(shuffled), stretch)
        for batch in by_length(shuffled[start : start + stretch], tokens_per_step)
    ]
    shuffling.shuffle(batches)
    return batches


def _cut(ordered: Sequence[Example], tokens_per_step: int) -> Iterator[Batch]:
    """`ordered` goes from short to long, so that the newest row is the longest of its batch."""
    batch: list[Example] = []
    for example in ordered:
        if batch and (len(batch) + 1) * len(example.ids) > tokens_per_step:
            yield tuple(batch)
            batch = []
        batch.append(example)
    if batch:
        yield tuple(batch)
