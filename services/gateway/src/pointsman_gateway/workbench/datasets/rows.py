"""What becomes a row to learn from, and whose word it has."""

import json
import re
from collections.abc import Mapping, Sequence
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
