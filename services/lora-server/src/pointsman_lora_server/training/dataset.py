"""Turns the rows of a run into tokens: for training, for evaluation, and for the adapter's folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pointsman_lora_server.training import data, heldout
from pointsman_lora_server.training.adapter_folder import weights_digest
from pointsman_lora_server.training.base_folder import BaseFolder
from pointsman_lora_server.training.batches import Example, Row
from pointsman_lora_server.training.data import Conversation
from pointsman_lora_server.training.data_report import DataReport, describe_data
from pointsman_lora_server.training.exits import DataError
from pointsman_lora_server.training.methods import TrainingRows
from pointsman_lora_server.training.options import TrainingOptions

MAX_SAMPLES = 16
"""Held-out rows that are stored with the adapter, for its smoke test."""
MAX_SAMPLE_CHARACTERS = 8000


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of a run, ready for training and evaluation."""

    training: tuple[Row, ...]
    heldout: tuple[Row, ...]
    """Held-out rows for the loss."""
    questions: tuple[Example, ...]
    """Held-out rows whose answers are generated and compared."""
    first_example: Example
    known: tuple[Conversation, ...]
    """Training rows that few-shot prompts may use; of pairs, only the preferred answers."""
    samples: tuple[Conversation, ...]
    """Held-out rows to store with the adapter."""
    report: DataReport

    @property
    def longest(self) -> int:
        """Returns the tokens of the longest row; for a pair the sum of both answers, to choose the attention kernel."""
        return max(row.length for row in (*self.training, *self.heldout))


def build_dataset(
    options: TrainingOptions, rows: TrainingRows, base: BaseFolder, warn: Callable[[str], None]
) -> Dataset:
    """Encodes the rows of a run; raises `DataError` if no training rows are left."""
    split, recipe = rows.conversations, options.recipe
    encoded = options.method.encode_rows(rows, base.render, base.end_of_turn, recipe.max_tokens)
    for note in encoded.notes:
        warn(note)
    if not encoded.training:
        raise DataError(f"no training rows are left: all have more tokens than --max-tokens {recipe.max_tokens}")
    sources = {example.source for example in encoded.examples}
    return Dataset(
        training=encoded.training,
        heldout=tuple(heldout.choose(encoded.heldout, heldout.MAX_LOSS_ROWS, recipe.seed)),
        questions=tuple(heldout.choose(encoded.heldout_answers, options.evaluation.samples, recipe.seed)),
        first_example=encoded.examples[0],
        known=tuple(row for row in split.training if row in sources),
        samples=tuple(heldout.choose(_short(split.heldout), MAX_SAMPLES, recipe.seed)),
        report=describe_data(
            split.training,
            split.heldout,
            encoded.notes,
            [example.length for example in encoded.examples],
            sum(example.answer_length for example in encoded.examples),
        ),
    )


def run_fingerprint(options: TrainingOptions, base: BaseFolder) -> dict[str, str]:
    """Returns everything that determines what is learnt; a checkpoint is only resumed if it is equal."""
    return {
        "recipe": repr(options.recipe),
        "base model": base.fingerprint(),
        "training data": data.sha256(options.data),
        "held-out data": data.sha256(options.heldout) if options.heldout else repr(options.heldout_share),
        "system message": data.sha256(options.system) if options.system else "",
        "parent": weights_digest(options.parent) if options.parent else "",
        "evaluation": repr(options.evaluation),
    }


def _short(rows: Sequence[Conversation]) -> list[Conversation]:
    return [
        row
        for row in rows
        if sum(map(len, (row.answer, *(message.content for message in row.prompt)))) <= MAX_SAMPLE_CHARACTERS
    ]
