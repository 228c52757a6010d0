"""samples.jsonl: held-out rows that a version is tried with; they are kept beside it and are no part of its hash."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks import json_text

SAMPLES = "samples.jsonl"
MOST_ROWS = 16
MOST_ROW_BYTES = 64 << 10
MOST_BYTES = MOST_ROWS * (MOST_ROW_BYTES + 1)  # with the ends of the lines
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    messages: tuple[Turn, ...]  # the prompt
    answer: str


def read_samples(raw: bytes) -> tuple[Sample, ...]:
    """Raises InvalidArgument ("bad_samples")."""
    if len(raw) > MOST_BYTES:
        raise _refused(f"has more than {MOST_BYTES} bytes")
    lines = [(number, line) for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    if len(lines) > MOST_ROWS:
        raise _refused(f"has {len(lines)} rows; keep {MOST_ROWS} of them")
    return tuple(_sample(number, line) for number, line in lines)


def write_samples(samples: Sequence[Sample]) -> bytes:
    """In the shortest JSON there is: what was within the bounds when it was read is so when it is read back."""
    rows = (
        {
            "messages": [{"role": turn.role, "content": turn.content} for turn in sample.messages],
            "answer": sample.answer,
        }
        for sample in samples
    )
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows).encode()


def _sample(number: int, line: bytes) -> Sample:
    if len(line) > MOST_ROW_BYTES:
        raise _refused(f"line {number} has more than {MOST_ROW_BYTES} bytes")
    try:
        row = json_text.parse_object(line)
    except ValueError as error:
        raise _refused(f"line {number} cannot be read: {error}") from error
    messages, answer = row.get("messages"), row.get("answer")
    if row.keys() != {"messages", "answer"} or not isinstance(messages, list) or not isinstance(answer, str):
        raise _refused(f'line {number} must be {{"messages": [...], "answer": "..."}}')
    if not messages or not all(_is_turn(message) for message in messages) or messages[-1]["role"] != "user":
        raise _refused(
            f'line {number}: messages are {{"role": "system", "user" or "assistant", "content": "..."}}, a user\'s last'
        )
    return Sample(tuple(Turn(message["role"], message["content"]) for message in messages), answer)


def _is_turn(message: Any) -> bool:
    if not isinstance(message, Mapping) or message.keys() != {"role", "content"}:
        return False
    return message["role"] in ROLES and isinstance(message["content"], str)


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument(
        f"{SAMPLES} {message}; it holds up to {MOST_ROWS} held-out rows", code="bad_samples", param="folder"
    )
