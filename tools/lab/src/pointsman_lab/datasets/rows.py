"""Training rows and preference pairs, the source of each label, and the split into training and held-out rows."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pointsman_gateway.config.load import plain

_DIGITS = re.compile(r"\d+")
_ROLES = ("system", "user", "assistant")


class Source(IntEnum):
    """The source of a label, in ascending order of precedence."""

    TEACHER = 1
    """The teacher path was asked for this answer, and the validators accepted it."""
    ACCEPTED = 2
    """The teacher path answered a real request, the validators accepted the answer, and nobody rated it."""
    RATED = 3
    """Somebody gave the answer a high rating."""
    EXAMPLE = 4
    """The row is one of the task's configured examples."""
    EXPERT = 5
    """Somebody supplied the correct answer."""
    RETRIEVAL_CORRECTED = 6
    """Somebody supplied the correct answer after a path with retrieval had answered wrongly."""


@dataclass(frozen=True, slots=True)
class Row:
    messages: tuple[tuple[str, str], ...]
    """(role, content) pairs; the last message is the user's."""
    answer: str
    source: Source
    decision: str = ""
    tenant: str = ""

    @property
    def key(self) -> str:
        """Identifies a prompt; equal for prompts that differ only in case and white space."""
        return key_of(self.messages)

    def as_json(self) -> dict[str, Any]:
        """Return the row in the trainer's format."""
        if len(self.messages) == 1:
            return {"text": self.messages[0][1], "output": self.answer}
        return {"messages": [*_as_messages(self.messages), {"role": "assistant", "content": self.answer}]}


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair: a correct and an incorrect answer to one prompt."""

    right: Row
    wrong: str

    def as_json(self) -> dict[str, Any]:
        answers = {"chosen": self.right.answer, "rejected": self.wrong}
        if len(self.right.messages) == 1:
            return {"prompt": self.right.messages[0][1], **answers}
        return {"messages": _as_messages(self.right.messages), **answers}


def key_of(messages: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{role}: {plain(content)}" for role, content in messages)


def group_of(key: str) -> str:
    """Return a key that is equal for prompts that differ only in numbers. Such prompts are on the same side of the
    split."""
    return _DIGITS.sub("0", key)


def canonical(answer: str) -> str:
    """Return a JSON answer in canonical form, and any other answer without surrounding white space."""
    try:
        value = json.loads(answer)
    except ValueError:
        return answer.strip()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else answer.strip()


def texts_of(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...] | None:
    """Return the messages as texts. None if a message contains more than text or the last message is not the user's: it
    cannot be trained on."""
    read = tuple((message.get("role"), message.get("content")) for message in messages)
    plain_texts = all(role in _ROLES and isinstance(content, str) and content.strip() for role, content in read)
    bare = all(set(message) <= {"role", "content"} for message in messages)
    system_first = all(role != "system" for role, _ in read[1:])
    if not (plain_texts and bare and system_first and read and read[-1][0] == "user"):
        return None
    return tuple((str(role), str(content)) for role, content in read)


def _as_messages(messages: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set. Rows are sorted by key, so equal rows produce identical files."""

    train: tuple[Row, ...]
    heldout: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    heldout_pairs: tuple[Pair, ...]
    dropped: Mapping[str, int]
    """Number of dropped rows by reason."""


def split(rows: Iterable[Row], pairs: Iterable[Pair], closed: Set[str], heldout_share: float) -> DataSet:
    """Split rows into training and held-out data. `closed` contains the keys of evaluation rows; rows equal or similar
    to these are removed from training."""
    dropped: Counter[str] = Counter()
    closed_groups = {group_of(key) for key in closed}
    chosen: dict[str, Row] = {}
    for row in rows:
        if group_of(row.key) in closed_groups:
            dropped["held out by the configuration"] += 1
        elif row.key not in chosen:
            chosen[row.key] = row
        else:
            before = chosen[row.key]
            dropped["twice" if before.answer == row.answer else "contrary, and of less weight"] += 1
            # Rows come oldest first, so of two rows with equal precedence the later one wins.
            chosen[row.key] = max(row, before, key=lambda one: one.source)
    held = {key for key in chosen if _hash_to_unit_interval(group_of(key)) < heldout_share}
    ordered = [chosen[key] for key in sorted(chosen)]
    one_each = _deduplicated_pairs(pairs, chosen)
    return DataSet(
        train=tuple(row for row in ordered if row.key not in held),
        heldout=tuple(row for row in ordered if row.key in held),
        pairs=tuple(pair for pair in one_each if pair.right.key not in held),
        heldout_pairs=tuple(pair for pair in one_each if pair.right.key in held),
        dropped=dict(sorted(dropped.items())),
    )


def _deduplicated_pairs(pairs: Iterable[Pair], chosen: Mapping[str, Row]) -> Sequence[Pair]:
    """Return each pair once, for the final labels only. A pair is dropped if its rejected answer is now the correct
    one."""
    found = {}
    for pair in pairs:
        right = chosen.get(pair.right.key)
        if right is not None and pair.wrong != right.answer:
            found[right.key, pair.wrong] = Pair(right, pair.wrong)
    return [found[place] for place in sorted(found)]


def _hash_to_unit_interval(group: str) -> float:
    """Hash a prompt's text to the interval [0, 1), so that a prompt keeps its side of the split in every version."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) / 2**64
