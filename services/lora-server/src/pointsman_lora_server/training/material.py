"""The rows of a job: read and checked first, then as tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pointsman_lora_server.training import data, heldout
from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.batches import Example, PreferencePair, Row, encode, encode_pairs
from pointsman_lora_server.training.data import Conversation, Split
from pointsman_lora_server.training.errors import DataError
from pointsman_lora_server.training.examination import DataReport, examine
from pointsman_lora_server.training.job import TrainingOptions
from pointsman_lora_server.training.preferences import PreferenceSplit

MOST_SAMPLES = 16
"""Held-out rows that are kept beside the adapter, for those who want to try it out."""
MOST_LETTERS = 8000
"""Of such a row."""


@dataclass(frozen=True, slots=True)
class Dataset:
    training: tuple[Example, ...] | tuple[PreferencePair, ...]
    measured: tuple[Example, ...] | tuple[PreferencePair, ...]  # held-out rows for the loss
    asked: tuple[Example, ...]  # held-out rows that are answered
    shown: Example  # the first row, to be looked at
    known: tuple[Conversation, ...]  # what few-shot prompts are made of
    kept: tuple[Conversation, ...]  # held-out rows that go beside the adapter
    examination: DataReport

    @property
    def longest(self) -> int:
        """Tokens; of a pair, of both answers together, which is what decides nothing but the kind of attention."""
        rows: Sequence[Row] = (*self.training, *self.measured)
        return max(row.length for row in rows)


def encode_rows(
    job: TrainingOptions, rows: Split | PreferenceSplit, base: BaseFolder, warn: Callable[[str], None]
) -> Dataset:
    """Raises `DataError` where nothing is left."""
    split = rows.conversations if isinstance(rows, PreferenceSplit) else rows
    shape = (base.render, base.end_of_turn, job.recipe.most_tokens)
    answers = encode(split.heldout, *shape)
    if isinstance(rows, PreferenceSplit):
        pairs, held = encode_pairs(rows.training, *shape), encode_pairs(rows.heldout, *shape)
        training: tuple[Example, ...] | tuple[PreferencePair, ...] = pairs.rows
        notes, measured = (*rows.notes, *pairs.notes, *held.notes), held.rows
        seen = [example for pair in pairs.rows for example in (pair.chosen, pair.rejected)]
    else:
        examples = encode(split.training, *shape)
        training, measured = examples.rows, answers.rows  # type: ignore[assignment]  # pairs there, examples here
        notes = (*split.notes, *examples.notes, *answers.notes)
        seen = list(examples.rows)
    for note in notes:
        warn(note)
    if not training:
        raise DataError(f"no training rows are left: all have more tokens than --most-tokens {job.recipe.most_tokens}")
    known = tuple(dict.fromkeys(example.source for example in seen))
    return Dataset(
        training=training,
        measured=tuple(heldout.choose(measured, heldout.MOST_ROWS, job.recipe.seed)),
        asked=tuple(heldout.choose(answers.rows, job.measuring.samples, job.recipe.seed)),
        shown=seen[0],
        known=_preferred(split.training, known),
        kept=tuple(heldout.choose(_short(split.heldout), MOST_SAMPLES, job.recipe.seed)),
        examination=examine(
            split.training,
            split.heldout,
            notes,
            [example.length for example in seen],
            sum(example.learnt for example in seen),
        ),
    )


def _short(rows: Sequence[Conversation]) -> list[Conversation]:
    return [row for row in rows if sum(map(len, (row.answer, *(said.content for said in row.prompt)))) <= MOST_LETTERS]


def _preferred(rows: Sequence[Conversation], known: Sequence[Conversation]) -> tuple[Conversation, ...]:
    """Of pairs, the preferred answers only."""
    there = set(known)
    return tuple(row for row in rows if row in there)


def fingerprint(job: TrainingOptions, base: BaseFolder) -> dict[str, str]:
    """All that decides what is learnt, for a checkpoint to be told from another run's."""
    from pointsman_lora_server.training.adapter_config import digest

    return {
        "recipe": repr(job.recipe),
        "base model": base.fingerprint(),
        "training data": data.sha256(job.data),
        "held-out data": data.sha256(job.heldout) if job.heldout else repr(job.heldout_share),
        "system message": data.sha256(job.system) if job.system else "",
        "parent": digest(job.parent) if job.parent else "",
        "measuring": repr(job.measuring),
    }
