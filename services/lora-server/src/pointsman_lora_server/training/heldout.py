"""Answers to held-out rows, greedy, for as long as there is time."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.batches import Row, by_length
from pointsman_lora_server.training.learner import Learner
from pointsman_lora_server.training.loop import Pace
from pointsman_lora_server.training.prompt_path import Question
from pointsman_lora_server.training.scoring import Answered

MOST_ROWS = 256
ROWS_AT_ONCE = 16  # answered together
SPARE_TOKENS = 16  # beyond the longest expected answer, for those that run on

# Shares of a training step's time, measured: reading is a step without its way back; one token of ROWS_AT_ONCE answers.
READING, ONE_TOKEN = 0.5, 0.08

_Chosen = TypeVar("_Chosen")


@dataclass(frozen=True, slots=True)
class AnsweredSample:
    question: Question
    got: str

    @property
    def answered(self) -> Answered:
        return Answered(self.question.example.source.answer, self.got)


def choose(rows: Sequence[_Chosen], most: int, seed: int) -> list[_Chosen]:
    """At most `most` of them, at random, in their order."""
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(most, len(rows))))
    return [rows[index] for index in chosen]


def loss_seconds(rows: Sequence[Row], tokens_at_once: int, pace: Pace) -> float:
    return READING * pace.of(by_length(rows, tokens_at_once))


def answers(
    learner: Learner, base: BaseFolder, questions: Sequence[Question], ends_at: float
) -> Iterator[AnsweredSample]:
    """Shortest prompts first, ROWS_AT_ONCE together; what is not answered by `ends_at` is left out."""
    ordered = sorted(questions, key=lambda question: len(question.prompt_ids))
    took = 0.0
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        started = time.monotonic()
        if started + 1.2 * took > ends_at:
            return
        batch = ordered[start : start + ROWS_AT_ONCE]
        texts = _generate(learner, base, batch, ends_at - started)
        if texts is None:
            return
        yield from map(AnsweredSample, batch, texts)
        took = time.monotonic() - started


def answers_seconds(questions: Sequence[Question], tokens_per_step: int, pace: Pace) -> float:
    if not questions:
        return 0.0
    steps = -(-len(questions) // ROWS_AT_ONCE) * _most_new_tokens(questions) * ONE_TOKEN
    reading = READING * sum(len(question.prompt_ids) for question in questions) / tokens_per_step
    return (steps + reading) * pace.seconds_per_token * tokens_per_step


def _generate(learner: Learner, base: BaseFolder, batch: Sequence[Question], seconds: float) -> list[str] | None:
    """None where the time was over before all had ended: a cut answer says nothing."""
    longest = max(len(question.prompt_ids) for question in batch)
    ids = torch.full((len(batch), longest), base.end_of_turn)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for row, question in enumerate(batch):
        ids[row, longest - len(question.prompt_ids) :] = torch.tensor(question.prompt_ids)
        mask[row, longest - len(question.prompt_ids) :] = 1
    started = time.monotonic()
    options: dict[str, Any] = {"max_new_tokens": _most_new_tokens(batch), "do_sample": False, "max_time": seconds}
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
    made = generated[:, longest:]
    ended = made.shape[1] >= options["max_new_tokens"] or bool((made == base.end_of_turn).any(dim=1).all())
    if time.monotonic() - started >= seconds and not ended:
        return None
    texts: list[str] = base.tokenizer.batch_decode(made, skip_special_tokens=True)
    return texts


def _most_new_tokens(questions: Sequence[Question]) -> int:
    return max(question.learnt for question in questions) + SPARE_TOKENS
