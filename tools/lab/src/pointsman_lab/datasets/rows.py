"""What becomes a row to learn from, and whose word it has."""

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
    """Where the right answer comes from; where two differ, the higher one holds."""

    TEACHER = 1
    """The teacher path was asked for it, and the validators accepted it."""
    ACCEPTED = 2
    """The teacher path gave it to a caller, the validators accepted it, and nobody rated it."""
    RATED = 3
    """Somebody rated it high."""
    EXAMPLE = 4
    """It is among the task's examples."""
    EXPERT = 5
    """Somebody said what the right answer is."""
    RETRIEVAL_CORRECTED = 6
    """The same, where a path that looks things up had answered."""


@dataclass(frozen=True, slots=True)
class Row:
    messages: tuple[tuple[str, str], ...]
    """(role, content), the last one the user's."""
    answer: str
    source: Source
    decision: str = ""
    tenant: str = ""

    @property
    def key(self) -> str:
        """Equal for prompts that differ by case and spaces alone."""
        return key_of(self.messages)

    def as_json(self) -> dict[str, Any]:
        """As the trainer reads it."""
        if len(self.messages) == 1:
            return {"text": self.messages[0][1], "output": self.answer}
        return {"messages": [*_as_messages(self.messages), {"role": "assistant", "content": self.answer}]}


@dataclass(frozen=True, slots=True)
class Pair:
    """A right answer and one that was not."""

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
    """Equal for prompts that differ by numbers alone: they are held out together, or not at all."""
    return _DIGITS.sub("0", key)


def canonical(answer: str) -> str:
    """An answer that is JSON, in one form; any other as it is, but for the space around it."""
    try:
        value = json.loads(answer)
    except ValueError:
        return answer.strip()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else answer.strip()


def texts_of(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...] | None:
    """None where a message is more than a text, or where no user asks last: a trainer has no use for it."""
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
    """Rows are in the order of their keys, so that equal rows make equal files."""

    train: tuple[Row, ...]
    heldout: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    heldout_pairs: tuple[Pair, ...]
    dropped: Mapping[str, int]
    """How many rows, by why."""


def split(rows: Iterable[Row], pairs: Iterable[Pair], closed: Set[str], heldout_share: float) -> DataSet:
    """`closed` are keys of rows that decide on the adapter: neither they nor their like may be learnt."""
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
            # Of two with the same weight the later one holds: rows come oldest first.
            chosen[row.key] = max(row, before, key=lambda one: one.source)
    held = {key for key in chosen if _point(group_of(key)) < heldout_share}
    ordered = [chosen[key] for key in sorted(chosen)]
    one_each = _one_each(pairs, chosen)
    return DataSet(
        train=tuple(row for row in ordered if row.key not in held),
        heldout=tuple(row for row in ordered if row.key in held),
        pairs=tuple(pair for pair in one_each if pair.right.key not in held),
        heldout_pairs=tuple(pair for pair in one_each if pair.right.key in held),
        dropped=dict(sorted(dropped.items())),
    )


def _one_each(pairs: Iterable[Pair], chosen: Mapping[str, Row]) -> Sequence[Pair]:
    """With the answers that hold, each once; none whose wrong answer has turned out right."""
    found = {}
    for pair in pairs:
        right = chosen.get(pair.right.key)
        if right is not None and pair.wrong != right.answer:
            found[right.key, pair.wrong] = Pair(right, pair.wrong)
    return [found[place] for place in sorted(found)]


def _point(group: str) -> float:
    """Where a prompt lies between 0 and 1: a matter of its text alone, so that it stays on its side."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) / 2**64
