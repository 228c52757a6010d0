"""What the adapter does on rows it never learnt: their loss, and answers to some of them."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pointsman_lora_server.training.base import Base, Learner
from pointsman_lora_server.training.batches import Batch, Example, by_length
from pointsman_lora_server.training.loop import TOKENS_AT_ONCE, Pace, token_losses

MOST_ROWS = 256
ROWS_AT_ONCE = 16  # answered together
SPARE_TOKENS = 16  # beyond the longest expected answer, for those that run on

# Shares of a training step's time, measured: reading is a step without its way back; one token of ROWS_AT_ONCE answers.
READING, ONE_TOKEN = 0.5, 0.08


@dataclass(frozen=True, slots=True)
class Sample:
    example: Example
    got: str

    @property
    def expected(self) -> str:
        return self.example.source.answer

    @property
    def exact(self) -> bool:
        """JSON is compared as a value, anything else as text without the space around it."""
        try:
            return bool(json.loads(self.expected) == json.loads(self.got))
        except ValueError:
            return self.expected.strip() == self.got.strip()


def choose(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most `most` of them, at random, in their order."""
    chosen = sorted(random.Random(seed).sample(range(len(examples)), min(most, len(examples))))
    return [examples[index] for index in chosen]


def loss(learner: Learner, examples: Sequence[Example], tokens_at_once: int) -> float:
    """Mean over all learnt tokens."""
    total = 0.0
    with torch.no_grad(), learner.autocast():
        for batch in by_length(examples, tokens_at_once):
            hidden, targets = learner.states(batch)
            for states, wanted in zip(hidden.split(TOKENS_AT_ONCE), targets.split(TOKENS_AT_ONCE), strict=True):
                total += float(token_losses(learner, states, wanted))
    return total / sum(example.learnt for example in examples)


def loss_seconds(examples: Sequence[Example], tokens_at_once: int, pace: Pace) -> float:
    return READING * pace.of(by_length(examples, tokens_at_once))


def answers(learner: Learner, base: Base, examples: Sequence[Example], ends_at: float) -> Iterator[Sample]:
    """Greedy answers, shortest prompts first, for as long as there is time."""
    ordered = sorted(examples, key=lambda example: example.prompt_length)
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        started = time.monotonic()
        batch = tuple(ordered[start : start + ROWS_AT_ONCE])
        yield from map(Sample, batch, _generate(learner, base, batch))
        if time.monotonic() + 1.2 * (time.monotonic() - started) > ends_at:
            return


def answers_seconds(examples: Sequence[Example], tokens_per_step: int, pace: Pace) -> float:
    if not examples:
        return 0.0
    steps = -(-len(examples) // ROWS_AT_ONCE) * _most_new_tokens(examples) * ONE_TOKEN
    reading = READING * sum(example.prompt_length for example in examples) / tokens_per_step
    return (steps + reading) * pace.seconds_per_token * tokens_per_step


def _generate(learner: Learner, base: Base, batch: Batch) -> list[str]:
    longest = max(example.prompt_length for example in batch)
    ids = torch.full((len(batch), longest), base.end_of_turn)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for row, example in enumerate(batch):
        ids[row, longest - example.prompt_length :] = torch.tensor(example.prompt_ids)
        mask[row, longest - example.prompt_length :] = 1
    with torch.no_grad(), learner.autocast():
        generated = learner.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=_most_new_tokens(batch),
            do_sample=False,
            eos_token_id=base.end_of_turn,
            pad_token_id=base.end_of_turn,
        )
    texts: list[str] = base.tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)
    return texts


def _most_new_tokens(examples: Sequence[Example]) -> int:
    return max(example.learnt for example in examples) + SPARE_TOKENS
