"""Encodes conversations and preference pairs as token ids.

The caller passes the function that renders messages as token ids, so this module needs no tokenizer package.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, Protocol

from pointsman_lora_server.training.batches import AnyRow
from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.exits import DataError

Render = Callable[[Sequence[Message], bool], list[int]]
"""A function that returns the token ids of messages in the model's chat template, such as `BaseFolder.render`. If its
second argument is true, the ids end with the tokens that introduce the assistant's answer."""


class PreferenceRow(Protocol):
    """Interface of a prompt with a preferred and a rejected answer; `methods.dpo.Preference` implements it. `where` is
    the row's file and line.
    """

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
    """A conversation as token ids: a prompt, and the answer that the model is trained to write."""

    ids: tuple[int, ...]
    """The ids of the prompt, of the answer, and of the token that ends the answer."""
    prompt_length: int
    """Number of tokens of the prompt, on which no loss is computed."""
    source: Conversation

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: self.prompt_length]

    @property
    def answer_length(self) -> int:
        """Returns the number of tokens of the answer, including the token that ends it."""
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


@dataclass(frozen=True, slots=True)
class Encoded(Generic[AnyRow]):
    rows: tuple[AnyRow, ...]
    notes: tuple[str, ...]
    """One line for each row that was left out because of its length."""


def encode(rows: Sequence[Conversation], render: Render, end_of_turn: int, max_tokens: int) -> Encoded[Example]:
    """Encodes conversations. Conversations with more than `max_tokens` are left out, because the model would learn to
    stop in the middle of a shortened answer.

    `end_of_turn` is the id of the token that ends an answer. Raises DataError if the chat template renders a prompt
    differently when an answer follows.
    """
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
    """Encodes preference pairs. A pair is left out if its prompt together with one of its answers has more than
    `max_tokens`.

    `end_of_turn` is the id of the token that ends an answer. Raises DataError if the chat template renders a prompt
    differently when an answer follows.
    """
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


def _encode_row(row: Conversation, render: Render, end_of_turn: int) -> Example:
    prompt = render(row.prompt, True)
    whole = render((*row.prompt, Message("assistant", row.answer)), False)
    if whole[: len(prompt)] != prompt:
        raise DataError(f"{row.where}: the chat template renders the prompt differently once it is answered")
    # A template may add a line break after the end of the turn, which is never generated.
    answer = takewhile(lambda token: token != end_of_turn, whole[len(prompt) :])
    return Example((*prompt, *answer, end_of_turn), len(prompt), row)
