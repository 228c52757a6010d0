"""Generates the answers to held-out rows for as long as there is time.

The baseline that training has to beat is the base model, prompted with the training rows most similar to the question.
"""

import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pointsman_lora_server.training.batches import Example, Render, Row, batch_by_length
from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.folders import BaseFolder
from pointsman_lora_server.training.learner import Learner
from pointsman_lora_server.training.loop import Pace
from pointsman_lora_server.training.scoring import ScoredAnswer

_WORD = re.compile(r"\w+")


class NearestRows:
    """Finds the rows that share the most words with a question, weighted by inverse document frequency."""

    def __init__(self, rows: Sequence[Conversation]) -> None:
        self._rows = rows
        self._words = [_words(row.question) for row in rows]
        counts = Counter(word for words in self._words for word in words)
        self._weight = {word: math.log(1 + len(rows) / count) for word, count in counts.items()}

    def find(self, question: str, count: int) -> list[Conversation]:
        """The most similar rows, the best first; of equal ones the earlier."""
        query = _words(question)
        ranked = sorted(range(len(self._rows)), key=lambda index: (-self._similarity(query, self._words[index]), index))
        return [self._rows[index] for index in ranked[:count]]

    def _similarity(self, query: frozenset[str], words: frozenset[str]) -> float:
        """Cosine of the two weighted sets of words."""
        shared = sum(self._weight[word] ** 2 for word in query & words)
        return shared / (1e-9 + math.sqrt(self._squared_norm(query) * self._squared_norm(words)))

    def _squared_norm(self, words: frozenset[str]) -> float:
        return sum(self._weight.get(word, 0.0) ** 2 for word in words)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to answer, and the row that it belongs to."""

    prompt_ids: tuple[int, ...]
    example: Example

    @property
    def answer_length(self) -> int:
        return self.example.answer_length


def plain_questions(rows: Sequence[Example]) -> tuple[Question, ...]:
    """The rows' own prompts."""
    return tuple(Question(row.prompt_ids, row) for row in rows)


def few_shot_questions(
    rows: Sequence[Example], nearest: NearestRows, shots: int, render: Render, max_tokens: int
) -> tuple[Question, ...]:
    """The rows' prompts with `shots` answered examples before each; fewer if the prompt would be too long."""
    return tuple(_few_shot_question(row, nearest.find(row.source.question, shots), render, max_tokens) for row in rows)


def _few_shot_question(row: Example, shots: Sequence[Conversation], render: Render, max_tokens: int) -> Question:
    for count in range(len(shots), 0, -1):
        ids = render(_messages(row.source, shots[:count]), True)
        if len(ids) + row.answer_length <= max_tokens:
            return Question(tuple(ids), row)
    return Question(row.prompt_ids, row)


def _messages(row: Conversation, shots: Sequence[Conversation]) -> list[Message]:
    """The system message, the shots as turns (the most similar one last, next to the question), and the row's own
    prompt."""
    system = [message for message in row.prompt[:1] if message.role == "system"]
    turns = [
        turn for shot in reversed(shots) for turn in (Message("user", shot.question), Message("assistant", shot.answer))
    ]
    return [*system, *turns, *row.prompt[len(system) :]]


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))


MAX_LOSS_ROWS = 256
ROWS_PER_BATCH = 16
SPARE_TOKENS = 16
"""How much longer an answer may be than the longest expected one."""

READ_SHARE, TOKEN_SHARE = 0.5, 0.08
"""Measured as fractions of the time of a training step: reading is a forward pass, without the backward one; and one
token each of `ROWS_PER_BATCH` answers."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class AnsweredSample:
    question: Question
    text: str

    @property
    def scored(self) -> ScoredAnswer:
        return ScoredAnswer(self.question.example.source.answer, self.text)


def choose(rows: Sequence[_Item], max_rows: int, seed: int) -> list[_Item]:
    """A random choice of at most `max_rows`, in their order."""
    indices = sorted(random.Random(seed).sample(range(len(rows)), min(max_rows, len(rows))))
    return [rows[index] for index in indices]


def estimate_loss_seconds(rows: Sequence[Row], tokens_per_step: int, pace: Pace) -> float:
    return READ_SHARE * pace.seconds_for(batch_by_length(rows, tokens_per_step))


def estimate_answer_seconds(questions: Sequence[Question], tokens_per_step: int, pace: Pace) -> float:
    if not questions:
        return 0.0
    generation = -(-len(questions) // ROWS_PER_BATCH) * _max_new_tokens(questions) * TOKEN_SHARE
    reading = READ_SHARE * sum(len(question.prompt_ids) for question in questions) / tokens_per_step
    return (generation + reading) * pace.seconds_per_token * tokens_per_step


def generate_answers(
    learner: Learner, base: BaseFolder, questions: Sequence[Question], ends_at: float
) -> Iterator[AnsweredSample]:
    """Greedy answers in batches, the shortest prompts first. What is not answered by `ends_at` is left out."""
    ordered = sorted(questions, key=lambda question: len(question.prompt_ids))
    last_seconds = 0.0
    for start in range(0, len(ordered), ROWS_PER_BATCH):
        started = time.monotonic()
        if started + 1.2 * last_seconds > ends_at:
            return
        batch = ordered[start : start + ROWS_PER_BATCH]
        texts = _generate(learner, base, batch, ends_at - started)
        if texts is None:
            return
        yield from map(AnsweredSample, batch, texts)
        last_seconds = time.monotonic() - started


def _generate(learner: Learner, base: BaseFolder, batch: Sequence[Question], seconds: float) -> list[str] | None:
    """None if the time ended before all answers did, since an incomplete answer cannot be scored."""
    longest = max(len(question.prompt_ids) for question in batch)
    ids = torch.full((len(batch), longest), base.end_of_turn)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for row, question in enumerate(batch):
        ids[row, longest - len(question.prompt_ids) :] = torch.tensor(question.prompt_ids)
        mask[row, longest - len(question.prompt_ids) :] = 1
    started = time.monotonic()
    options: dict[str, Any] = {"max_new_tokens": _max_new_tokens(batch), "do_sample": False, "max_time": seconds}
    learner.model.eval()
    with torch.no_grad(), learner.autocast():
        generated = learner.model.generate(
            input_ids=ids.to(learner.device),
            attention_mask=mask.to(learner.device),
            eos_token_id=base.end_of_turn,
            pad_token_id=base.end_of_turn,
            **options,
        )
    learner.model.train()
    new = generated[:, longest:]
    is_complete = new.shape[1] >= options["max_new_tokens"] or bool((new == base.end_of_turn).any(dim=1).all())
    if time.monotonic() - started >= seconds and not is_complete:
        return None
    texts: list[str] = base.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def _max_new_tokens(questions: Sequence[Question]) -> int:
    return max(question.answer_length for question in questions) + SPARE_TOKENS
