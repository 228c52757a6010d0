"""What training has to beat: the base model, asked with the training rows that are most like the question."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_lora_server.training.batches import Example, Render
from pointsman_lora_server.training.data import Conversation, Message

_WORD = re.compile(r"\w+")


class Nearest:
    """Finds the rows that share the most words with a question; rare words count more (inverse document frequency)."""

    def __init__(self, rows: Sequence[Conversation]) -> None:
        self._rows = rows
        self._words = [_words(row.question) for row in rows]
        seen = Counter(word for words in self._words for word in words)
        self._weight = {word: math.log(1 + len(rows) / count) for word, count in seen.items()}

    def to(self, question: str, count: int) -> list[Conversation]:
        """The nearest one first; of equals the earlier."""
        asked = _words(question)
        ranked = sorted(range(len(self._rows)), key=lambda index: (-self._likeness(asked, self._words[index]), index))
        return [self._rows[index] for index in ranked[:count]]

    def _likeness(self, asked: frozenset[str], words: frozenset[str]) -> float:
        """Cosine of the two sets of words, each weighed by its rarity."""
        shared = sum(self._weight[word] ** 2 for word in asked & words)
        return shared / (1e-9 + math.sqrt(self._size(asked) * self._size(words)))

    def _size(self, words: frozenset[str]) -> float:
        return sum(self._weight.get(word, 0.0) ** 2 for word in words)


def ask(
    rows: Sequence[Example], nearest: Nearest, shots: int, render: Render, most_tokens: int
) -> tuple["Question", ...]:
    """The same questions with `shots` answered ones before each; fewer where the prompt would be too long."""
    return tuple(_ask(row, nearest.to(row.source.question, shots), render, most_tokens) for row in rows)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to be answered, and the row that it is about."""

    prompt_ids: tuple[int, ...]
    example: Example

    @property
    def learnt(self) -> int:
        return self.example.learnt


def plainly(rows: Sequence[Example]) -> tuple[Question, ...]:
    return tuple(Question(row.prompt_ids, row) for row in rows)


def _ask(row: Example, shots: Sequence[Conversation], render: Render, most_tokens: int) -> Question:
    for count in range(len(shots), 0, -1):
        ids = render(_messages(row.source, shots[:count]), True)
        if len(ids) + row.learnt <= most_tokens:
            return Question(tuple(ids), row)
    return Question(row.prompt_ids, row)


def _messages(row: Conversation, shots: Sequence[Conversation]) -> list[Message]:
    """The system message, the shots as turns (the nearest one last, beside the question), and the row's own prompt."""
    system = [message for message in row.prompt[:1] if message.role == "system"]
    turns = [
        turn for shot in reversed(shots) for turn in (Message("user", shot.question), Message("assistant", shot.answer))
    ]
    return [*system, *turns, *row.prompt[len(system) :]]


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))
