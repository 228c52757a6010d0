"""Divides the rows of a training run into batches. Rows of similar length share a batch, so that little padding is
computed.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

BATCHES_PER_GROUP = 16
"""The shuffled rows are cut into groups that fill about this many batches, and sorted by length only within a group. So
there is little padding, but the order of the rows stays random."""


class Row(Protocol):
    @property
    def length(self) -> int:
        """Returns the number of tokens that the model computes for the row, without padding."""


AnyRow = TypeVar("AnyRow", bound=Row)


def plan_batches(rows: Sequence[AnyRow], epochs: int, tokens_per_step: int, seed: int) -> list[tuple[AnyRow, ...]]:
    """Returns the batches of all epochs in the order of training.

    A batch has at most `tokens_per_step` tokens, padding included; a row with more tokens is a batch of its own. The
    same rows and seed give the same batches, so a resumed run repeats the batches of the interrupted run.
    """
    shuffler = random.Random(seed)
    return [batch for _ in range(epochs) for batch in _plan_epoch(rows, tokens_per_step, shuffler)]


def batch_by_length(rows: Sequence[AnyRow], tokens_per_step: int) -> list[tuple[AnyRow, ...]]:
    """Groups rows by length, the shortest first, into batches of at most `tokens_per_step` tokens, padding included.

    A row with more tokens than `tokens_per_step` is a batch of its own.
    """
    return list(_cut(sorted(rows, key=lambda row: row.length), tokens_per_step))


def padded_tokens(batch: Sequence[Row]) -> int:
    """Returns the number of tokens that the model computes for a batch, padding included: rows times the longest row's
    length.
    """
    return len(batch) * max(row.length for row in batch)


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
    """Cuts rows that are sorted by length, the shortest first, into batches of at most `tokens_per_step` tokens."""
    batch: list[AnyRow] = []
    for row in ordered:
        if batch and (len(batch) + 1) * row.length > tokens_per_step:
            yield tuple(batch)
            batch = []
        batch.append(row)
    if batch:
        yield tuple(batch)
