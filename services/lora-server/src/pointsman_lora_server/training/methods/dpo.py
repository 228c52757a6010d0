"""Direct preference optimization (DPO): trains on pairs of answers to the same prompt, one preferred and one rejected.

A row of the data has one of two forms:

    {"prompt": "..." or [messages], "chosen": "...", "rejected": "..."}
    {"messages": [..., the user's], "chosen": "...", "rejected": "..."}

An answer may also be a list that contains only the assistant's message, as in published data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman_lora_server.training.data import (
    Conversation,
    Message,
    RowError,
    check_text,
    parse_answer,
    parse_messages,
    read_rows,
    read_system,
    reject_unknown_keys,
)
from pointsman_lora_server.training.encoding import Render, encode, encode_pairs
from pointsman_lora_server.training.exits import DataError
from pointsman_lora_server.training.methods.method import EncodedRows, TrainingMethod
from pointsman_lora_server.training.split import Split, draw_prompts

if TYPE_CHECKING:  # these need torch
    from pointsman_lora_server.training.dataset import BaseFolder
    from pointsman_lora_server.training.learner import Learner
    from pointsman_lora_server.training.loop import Objective
    from pointsman_lora_server.training.options import TrainingOptions


class Dpo(TrainingMethod):
    """Direct preference optimization of a LoRA, with TRL's loss."""

    name = "dpo"
    learning_rate = 2e-4
    learns_from_pairs = True

    def read_rows(self, options: TrainingOptions) -> PreferenceSplit:
        return read_preference_split(
            options.data, options.heldout, options.heldout_share, options.system, options.recipe.seed
        )

    def encode_rows(self, rows: PreferenceSplit, render: Render, end_of_turn: int, max_tokens: int) -> EncodedRows:
        training = encode_pairs(rows.training, render, end_of_turn, max_tokens)
        heldout = encode_pairs(rows.heldout, render, end_of_turn, max_tokens)
        answers = encode(rows.conversations.heldout, render, end_of_turn, max_tokens)
        examples = tuple(example for pair in training.rows for example in (pair.chosen, pair.rejected))
        notes = (*rows.notes, *training.notes, *heldout.notes)
        return EncodedRows(training.rows, heldout.rows, answers.rows, examples, notes)

    def create_objective(
        self, learner: Learner, base: BaseFolder, heldout: Sequence[Any], options: TrainingOptions
    ) -> Objective:
        # Imported here: TRL and its dependencies take seconds.
        from pointsman_lora_server.training.dpo_loss import DpoObjective

        return DpoObjective(learner, base, heldout, options.recipe, is_fresh=options.parent is None)


@dataclass(frozen=True, slots=True)
class Preference:
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    where: str
    """The file and line that the preference pair was read from, as "file.jsonl:12"."""

    @property
    def conversation(self) -> Conversation:
        """Returns the prompt with the preferred answer as a conversation."""
        return Conversation(self.prompt, self.chosen, self.where)


@dataclass(frozen=True, slots=True)
class PreferenceSplit:
    training: tuple[Preference, ...]
    heldout: tuple[Preference, ...]
    notes: tuple[str, ...]

    @property
    def conversations(self) -> Split:
        training, heldout = (tuple(pair.conversation for pair in side) for side in (self.training, self.heldout))
        return Split(training, heldout, self.notes)


def read_preference_split(
    training: Path, heldout: Path | None, share: float, system: Path | None, seed: int
) -> PreferenceSplit:
    """Reads preference pairs (a prompt, its preferred answer and a rejected one), and divides them into training and
    held-out pairs.

    If `heldout` is None, the fraction `share` of the prompts in the file `training` is held out, drawn at random with
    `seed`. `system` is a file with the system message for rows without one.

    Raises DataError if a file cannot be read or has invalid rows, two training pairs prefer opposite answers to the
    same prompt, no training pairs are left, or prompts should be held out but there is only one.
    """
    instruction = read_system(system)
    pairs = read_preferences(training, instruction)
    if heldout is None:
        return _split_by_share(pairs, share, seed)
    return _split(pairs, read_preferences(heldout, instruction))


def read_preferences(path: Path, system: str | None = None) -> list[Preference]:
    """Reads a file of preference pairs. If `system` is given, it becomes the system message of prompts without one.

    Raises DataError, which lists up to `MAX_ERRORS` problems, if the file cannot be read, has no rows, or has invalid
    rows.
    """
    return [
        Preference(prompt, chosen, rejected, where)
        for where, (prompt, chosen, rejected) in read_rows(path, lambda row: _parse(row, system))
    ]


def _split(training: Sequence[Preference], heldout: Sequence[Preference]) -> PreferenceSplit:
    """Returns the pairs, without training pairs that are duplicates or whose prompt is also held out.

    A prompt may have several pairs. Raises DataError if two training pairs are the reverse of each other, or no
    training pairs are left.
    """
    heldout_by_key = {pair.conversation.key: pair for pair in heldout}
    unique: dict[tuple[object, ...], Preference] = {}
    notes = []
    for pair in training:
        content = (pair.prompt, pair.chosen, pair.rejected)
        if pair.conversation.key in heldout_by_key:
            where = heldout_by_key[pair.conversation.key].where
            notes.append(f"{pair.where}: left out, its prompt is held out too ({where})")
        elif content in unique:
            notes.append(f"{pair.where}: left out, the same as {unique[content].where}")
        elif (reverse := (pair.prompt, pair.rejected, pair.chosen)) in unique:
            raise DataError(
                f"{pair.where}: prefers the opposite of {unique[reverse].where}; keep the one that is right"
            )
        else:
            unique[content] = pair
    if not unique:
        raise DataError("no training rows are left: every one of them is held out too")
    return PreferenceSplit(tuple(unique.values()), tuple(heldout), tuple(notes))


def _split_by_share(pairs: Sequence[Preference], share: float, seed: int) -> PreferenceSplit:
    everything = _split(pairs, ())
    heldout_keys = draw_prompts([pair.conversation.key for pair in everything.training], share, seed)
    return PreferenceSplit(
        tuple(pair for pair in everything.training if pair.conversation.key not in heldout_keys),
        tuple(pair for pair in everything.training if pair.conversation.key in heldout_keys),
        everything.notes,
    )


def _parse(row: dict[str, object], system: str | None) -> tuple[tuple[Message, ...], str, str]:
    key = "messages" if "messages" in row else "prompt"
    if key not in row or "chosen" not in row or "rejected" not in row:
        raise RowError('a row for DPO needs "prompt" or "messages", and "chosen" and "rejected"')
    reject_unknown_keys(row, (key, "chosen", "rejected", "source"))
    value = row[key]
    if isinstance(value, str):
        prompt: tuple[Message, ...] = (Message("user", check_text(value, f'"{key}"')),)
    else:
        prompt = parse_messages(value, key)
        if prompt[-1].role != "user":
            raise RowError(f'the last of "{key}" is what is answered; its role must be "user", not "{prompt[-1].role}"')
    if system is not None and prompt[0].role != "system":
        prompt = (Message("system", system), *prompt)
    chosen, rejected = _parse_answer(row["chosen"], "chosen"), _parse_answer(row["rejected"], "rejected")
    if chosen.strip() == rejected.strip():
        raise RowError('"chosen" and "rejected" are the same: there is nothing to prefer')
    return prompt, chosen, rejected


def _parse_answer(value: object, name: str) -> str:
    if isinstance(value, list):
        messages = parse_messages(value, name)
        if len(messages) != 1 or messages[0].role != "assistant":
            raise RowError(f'"{name}" must be the assistant\'s message alone')
        return messages[0].content
    return parse_answer(value, name)
