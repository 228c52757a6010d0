"""Builds few-shot prompts for the base model, with the most similar training rows as examples. A trained adapter has to
score better than these prompts.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.encoding import Example, Render

_WORD = re.compile(r"\w+")


class NearestRows:
    """Finds the training rows whose last user message is most similar to a question.

    The similarity is the cosine of the two texts' sets of words, weighted by inverse document frequency.
    """

    def __init__(self, rows: Sequence[Conversation]) -> None:
        self._rows = rows
        self._words = [_words(row.question) for row in rows]
        counts = Counter(word for words in self._words for word in words)
        self._weight = {word: math.log(1 + len(rows) / count) for word, count in counts.items()}

    def find(self, question: str, count: int) -> list[Conversation]:
        """Returns the `count` rows that are most similar to the question, the most similar one first. Equally similar
        rows keep their order.
        """
        query = _words(question)
        ranked = sorted(range(len(self._rows)), key=lambda index: (-self._similarity(query, self._words[index]), index))
        return [self._rows[index] for index in ranked[:count]]

    def _similarity(self, query: frozenset[str], words: frozenset[str]) -> float:
        """Returns the cosine of two sets of words; a word's weight is its inverse document frequency."""
        shared = sum(self._weight[word] ** 2 for word in query & words)
        return shared / (1e-9 + math.sqrt(self._squared_norm(query) * self._squared_norm(words)))

    def _squared_norm(self, words: frozenset[str]) -> float:
        return sum(self._weight.get(word, 0.0) ** 2 for word in words)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt for the model, as token ids, and the held-out row whose answer is expected."""

    prompt_ids: tuple[int, ...]
    example: Example

    @property
    def answer_length(self) -> int:
        return self.example.answer_length


def plain_questions(rows: Sequence[Example]) -> tuple[Question, ...]:
    """Returns a question for each row, with the row's own prompt and no added examples."""
    return tuple(Question(row.prompt_ids, row) for row in rows)


def few_shot_questions(
    rows: Sequence[Example], nearest: NearestRows, shots: int, render: Render, max_tokens: int
) -> tuple[Question, ...]:
    """Returns a question for each row: up to `shots` answered examples, found by `nearest`, followed by the row's
    prompt.

    A question has fewer examples if its prompt and the row's answer would have more than `max_tokens` together.
    """
    return tuple(_few_shot_question(row, nearest.find(row.source.question, shots), render, max_tokens) for row in rows)


def _few_shot_question(row: Example, shots: Sequence[Conversation], render: Render, max_tokens: int) -> Question:
    for count in range(len(shots), 0, -1):
        ids = render(_messages(row.source, shots[:count]), True)
        if len(ids) + row.answer_length <= max_tokens:
            return Question(tuple(ids), row)
    return Question(row.prompt_ids, row)


def _messages(row: Conversation, shots: Sequence[Conversation]) -> list[Message]:
    """Returns the row's system message, the examples `shots` as conversation turns (the most similar one last), and the
    remaining messages of the row's prompt.
    """
    system = [message for message in row.prompt[:1] if message.role == "system"]
    turns = [
        turn for shot in reversed(shots) for turn in (Message("user", shot.question), Message("assistant", shot.answer))
    ]
    return [*system, *turns, *row.prompt[len(system) :]]


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))
