"""Plans the batches of a training run: rows of similar length together, so that there is little padding."""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

BATCHES_PER_GROUP = 16
"""Shuffled rows are sorted by length in groups of this many batches. So there is little padding, but the order stays
random."""


class Row(Protocol):
    @property
    def length(self) -> int:
        """Returns the number of tokens that are computed for the row, without padding."""


AnyRow = TypeVar("AnyRow", bound=Row)


def plan_batches(rows: Sequence[AnyRow], epochs: int, tokens_per_step: int, seed: int) -> list[tuple[AnyRow, ...]]:
    """Returns the batches of all epochs in the order of training.

    A batch has at most `tokens_per_step` tokens, padding included; a longer row is a batch of its own. The same rows
    and seed give the same batches, so that a resumed run repeats them.
    """
    shuffler = random.Random(seed)
    return [batch for _ in range(epochs) for batch in _plan_epoch(rows, tokens_per_step, shuffler)]


def batch_by_length(rows: Sequence[AnyRow], tokens_per_step: int) -> list[tuple[AnyRow, ...]]:
    """Groups rows by length, the shortest first, into batches of at most `tokens_per_step` tokens, padding included.

    A longer row is a batch of its own.
    """
    return list(_cut(sorted(rows, key=lambda row: row.length), tokens_per_step))


def padded_tokens(batch: Sequence[Row]) -> int:
    """Returns the number of tokens that are computed for a batch, padding included."""
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
