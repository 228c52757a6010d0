"""Reads preference pairs for DPO: the same prompt, an answer that is preferred, and one that is not.

    {"prompt": "..." or [messages], "chosen": "...", "rejected": "..."}
    {"messages": [..., the user's], "chosen": "...", "rejected": "..."}

An answer may also be the assistant's message, alone in a list: the form of published sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_lora_server.training.data import (
    Conversation,
    Message,
    RowError,
    Split,
    draw_prompts,
    parse_answer,
    parse_messages,
    read_rows,
    read_system,
    refuse_unknown,
    text_of,
)
from pointsman_lora_server.training.errors import DataError


@dataclass(frozen=True, slots=True)
class Preference:
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    where: str

    @property
    def conversation(self) -> Conversation:
        """As the preferred answer alone would teach it."""
        return Conversation(self.prompt, self.chosen, self.where)


@dataclass(frozen=True, slots=True)
class PreferenceSplit:
    training: tuple[Preference, ...]
    heldout: tuple[Preference, ...]
    notes: tuple[str, ...]

    @property
    def conversations(self) -> Split:
        chosen = [tuple(pair.conversation for pair in side) for side in (self.training, self.heldout)]
        return Split(chosen[0], chosen[1], self.notes)


def gather_preferences(
    training: Path, heldout: Path | None, share: float, system: Path | None, seed: int
) -> PreferenceSplit:
    """As `data.gather` does it for conversations."""
    instruction = read_system(system)
    pairs = read_preferences(training, instruction)
    if heldout is None:
        return _split_by_share(pairs, share, seed)
    return _split(pairs, read_preferences(heldout, instruction))


def read_preferences(path: Path, system: str | None = None) -> list[Preference]:
    """Raises `DataError` with all bad lines, up to 20."""
    return [
        Preference(prompt, chosen, rejected, where)
        for where, (prompt, chosen, rejected) in read_rows(path, lambda row: _parse(row, system))
    ]


def _split(training: Sequence[Preference], heldout: Sequence[Preference]) -> PreferenceSplit:
    """One prompt may have several pairs: what goes is what is there twice, and what is held out."""
    held = {pair.conversation.key: pair for pair in heldout}
    kept: dict[tuple[object, ...], Preference] = {}
    notes = []
    for pair in training:
        same = (pair.prompt, pair.chosen, pair.rejected)
        if pair.conversation.key in held:
            where = held[pair.conversation.key].where
            notes.append(f"{pair.where}: left out, its prompt is held out too ({where})")
        elif same in kept:
            notes.append(f"{pair.where}: left out, the same as {kept[same].where}")
        elif (reverse := (pair.prompt, pair.rejected, pair.chosen)) in kept:
            raise DataError(
                f"{pair.where}: prefers the other way round than {kept[reverse].where}; keep the one that is right"
            )
        else:
            kept[same] = pair
    if not kept:
        raise DataError("no training rows are left: every one of them is held out too")
    return PreferenceSplit(tuple(kept.values()), tuple(heldout), tuple(notes))


def _split_by_share(pairs: Sequence[Preference], share: float, seed: int) -> PreferenceSplit:
    whole = _split(pairs, ())
    held = draw_prompts([pair.conversation.key for pair in whole.training], share, seed)
    return PreferenceSplit(
        tuple(pair for pair in whole.training if pair.conversation.key not in held),
        tuple(pair for pair in whole.training if pair.conversation.key in held),
        whole.notes,
    )


def _parse(row: dict[str, object], system: str | None) -> tuple[tuple[Message, ...], str, str]:
    key = "messages" if "messages" in row else "prompt"
    if key not in row or "chosen" not in row or "rejected" not in row:
        raise RowError('a row for DPO has "prompt" or "messages", "chosen" and "rejected"')
    refuse_unknown(row, (key, "chosen", "rejected", "source"))
    said = row[key]
    if isinstance(said, str):
        prompt: tuple[Message, ...] = (Message("user", text_of(said, f'"{key}"')),)
    else:
        prompt = parse_messages(said, key)
        if prompt[-1].role != "user":
            raise RowError(f'the last of "{key}" is what is answered: its role is "user", not "{prompt[-1].role}"')
    if system is not None and prompt[0].role != "system":
        prompt = (Message("system", system), *prompt)
    chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected")
    if chosen.strip() == rejected.strip():
        raise RowError('"chosen" and "rejected" are the same: there is nothing to prefer')
    return prompt, chosen, rejected


def _answer(value: object, name: str) -> str:
    if isinstance(value, list):
        messages = parse_messages(value, name)
        if len(messages) != 1 or messages[0].role != "assistant":
            raise RowError(f'"{name}" is the assistant\'s message, and no other')
        return messages[0].content
    return parse_answer(value, name)
