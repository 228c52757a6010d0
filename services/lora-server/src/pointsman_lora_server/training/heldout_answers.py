"""Generates the model's answers to held-out rows until a time limit, and estimates how long generation takes."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pointsman_lora_server.training.batches import Row, batch_by_length
from pointsman_lora_server.training.dataset import BaseFolder
from pointsman_lora_server.training.learner import Learner
from pointsman_lora_server.training.loop import Pace
from pointsman_lora_server.training.prompt_baseline import Question
from pointsman_lora_server.training.scoring import ScoredAnswer

ROWS_PER_BATCH = 16
SPARE_TOKENS = 16
"""A generated answer may be this many tokens longer than the longest expected answer of its batch."""

READ_SHARE, TOKEN_SHARE = 0.5, 0.08
"""Measured durations, as fractions of the duration of a training step with the same number of tokens. READ_SHARE is for
computing the tokens without a backward pass; TOKEN_SHARE is for generating one token of each answer in a batch of
`ROWS_PER_BATCH`."""


@dataclass(frozen=True, slots=True)
class AnsweredSample:
    question: Question
    text: str

    @property
    def scored(self) -> ScoredAnswer:
        return ScoredAnswer(self.question.example.source.answer, self.text)


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
    """Generates an answer to each question by greedy decoding, the shortest prompts first, until `ends_at` on the
    monotonic clock.

    Answers are generated in batches of `ROWS_PER_BATCH`. If a batch cannot be completed in time, its answers and those
    of all later batches are not yielded. With FSDP, every process must call this function; the first one's clock
    counts.
    """
    ordered = sorted(questions, key=lambda question: len(question.prompt_ids))
    last_seconds = 0.0
    for start in range(0, len(ordered), ROWS_PER_BATCH):
        started = time.monotonic()
        if learner.in_lockstep.agree(started + 1.2 * last_seconds > ends_at):
            return
        batch = ordered[start : start + ROWS_PER_BATCH]
        texts = _generate(learner, base, batch, ends_at - started)
        if texts is None:
            return
        yield from map(AnsweredSample, batch, texts)
        last_seconds = time.monotonic() - started


def _generate(learner: Learner, base: BaseFolder, batch: Sequence[Question], seconds: float) -> list[str] | None:
    """Generates the answers of one batch. Returns None if `seconds` pass before all answers are complete, since an
    incomplete answer cannot be scored.
    """
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
            synced_gpus=learner.in_lockstep.size > 1,
            **options,
        )
    learner.model.train()
    new = generated[:, longest:]
    is_complete = new.shape[1] >= options["max_new_tokens"] or bool((new == base.end_of_turn).any(dim=1).all())
    if learner.in_lockstep.agree(time.monotonic() - started >= seconds and not is_complete):
        return None
    texts: list[str] = base.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def _max_new_tokens(questions: Sequence[Question]) -> int:
    return max(question.answer_length for question in questions) + SPARE_TOKENS
