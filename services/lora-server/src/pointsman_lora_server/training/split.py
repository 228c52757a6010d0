"""Divides rows into training rows and held-out rows, on which the adapter is evaluated. No prompt is in both sets."""

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from pointsman_lora_server.training.data import (
    Conversation,
    Key,
    Message,
    first_lines,
    read_conversations,
    read_system,
)
from pointsman_lora_server.training.exits import DataError


@dataclass(frozen=True, slots=True)
class Split:
    training: tuple[Conversation, ...]
    heldout: tuple[Conversation, ...]
    notes: tuple[str, ...]
    """One line of text for each training row that was left out, with the reason."""

    @property
    def conversations(self) -> "Split":
        """Returns this object itself, because its rows are conversations already. Implements `TrainingRows`."""
        return self


def read_split(training: Path, heldout: Path | None, share: float, system: Path | None, seed: int) -> Split:
    """Reads conversations from files, and divides them into training and held-out rows. If `heldout` is None, the rows
    of a random fraction `share` of the prompts in the file `training` are held out.

    `system` is a file with the system message for rows without one. Raises DataError if a file cannot be read, has no
    rows or invalid ones, two rows give different answers to the same prompt, no training rows are left, or prompts
    should be held out but there is only one.
    """
    instruction = read_system(system)
    rows = read_conversations(training, instruction)
    if heldout is None:
        return split_by_share(rows, share, seed)
    return split(rows, read_conversations(heldout, instruction))


def split(training: Sequence[Conversation], heldout: Sequence[Conversation]) -> Split:
    """Returns the rows, without training rows that are duplicates or whose prompt is also held out.

    Prompts of training and held-out rows are compared by `Conversation.key`. Raises DataError if no training rows are
    left, or two of them give different answers to exactly the same prompt.
    """
    notes: list[str] = []
    contradictions: list[str] = []
    heldout_by_key = {row.key: row for row in heldout}
    first: dict[tuple[Message, ...], Conversation] = {}
    for row in training:
        if row.key in heldout_by_key:
            notes.append(f"{row.where}: left out, its prompt is held out too ({heldout_by_key[row.key].where})")
        elif row.prompt not in first:
            first[row.prompt] = row
        elif row.answer == first[row.prompt].answer:
            notes.append(f"{row.where}: left out, the same as {first[row.prompt].where}")
        else:
            contradictions.append(
                f"{row.where}: its prompt is that of {first[row.prompt].where}, but its answer differs; "
                "keep the one that is right"
            )
    if contradictions:
        raise DataError(first_lines(contradictions))
    if not first:
        raise DataError("no training rows are left: every one of them is held out too")
    return Split(tuple(first.values()), tuple(heldout), tuple(notes))


def split_by_share(rows: Sequence[Conversation], share: float, seed: int) -> Split:
    """Removes duplicate rows, then holds out all rows of a random fraction `share` of the prompts.

    Raises DataError if there are no rows, two rows give different answers to exactly the same prompt, or `share` is
    above 0 and there is only one prompt.
    """
    everything = split(rows, ())
    heldout_keys = draw_prompts([row.key for row in everything.training], share, seed)
    return Split(
        tuple(row for row in everything.training if row.key not in heldout_keys),
        tuple(row for row in everything.training if row.key in heldout_keys),
        everything.notes,
    )


def draw_prompts(keys: Sequence[Key], share: float, seed: int) -> Set[Key]:
    """Returns the keys of the prompts whose rows are held out: a random fraction `share` of all prompts.

    If `share` is above 0, at least one prompt is drawn, and at least one is not. `keys` has the key of each row.
    Prompts are drawn instead of rows, because a held-out row whose prompt was trained on would measure memorization.
    Raises DataError if `share` is above 0 and there is only one prompt.
    """
    if share == 0:
        return frozenset()
    prompts = list(dict.fromkeys(keys))
    if len(prompts) < 2:
        raise DataError("a single prompt cannot be split; add rows with other prompts, or name some with --eval-data")
    count = min(max(1, round(len(prompts) * share)), len(prompts) - 1)
    return frozenset(random.Random(seed).sample(prompts, count))
