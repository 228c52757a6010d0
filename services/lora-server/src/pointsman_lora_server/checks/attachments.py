"""Parses the optional files in an adapter's folder: training.json (the training report) and samples.jsonl (held-out
rows). Both are stored with the version but are not part of its hash.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks import untrusted_input
from pointsman_lora_server.domain import TRAINING_SECONDS, is_version

MAX_METRICS = 64

SAMPLES = "samples.jsonl"
MAX_ROWS = 16
MAX_ROW_BYTES = 64 << 10
MAX_SAMPLES_BYTES = MAX_ROWS * (MAX_ROW_BYTES + 1)  # with the line ends
ROLES = ("system", "user", "assistant")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_METRIC = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The fields of an adapter's training.json that are used. The author of the adapter wrote them; they are not
    verified.
    """

    data_sha256: str = ""
    base_digest: str = ""
    """SHA-256 of the base model's weights."""
    parent: str = ""
    """The adapter version from which training started; empty if there is none."""
    metrics: Mapping[str, float] = field(default_factory=dict)


def read_report(raw: bytes) -> TrainingReport:
    """Parses an adapter's training.json. Unknown fields, malformed values, and metrics beyond the first `MAX_METRICS`
    are ignored.

    Raises InvalidArgument ("bad_report") if the file is not a JSON object, or exceeds the limits of `parse_object`.
    """
    try:
        values = untrusted_input.parse_object(raw)
    except ValueError as error:
        raise InvalidArgument(
            f"training.json cannot be read: {error}; remove it, or write it again", code="bad_report", param="folder"
        ) from error
    data = values.get("data")
    parent = values.get("parent")
    return TrainingReport(
        data_sha256=_sha256(data.get("sha256")) if isinstance(data, dict) else "",
        base_digest=_sha256(values.get("base_model_digest")),
        parent=parent if isinstance(parent, str) and is_version(parent) else "",
        metrics=_metrics(values),
    )


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    losses = values.get("heldout_loss")
    metrics: dict[str, Any] = {
        "heldout_loss": losses.get("end") if isinstance(losses, dict) else losses,
        "heldout_exact": values.get("exact_share"),
        TRAINING_SECONDS: values.get("seconds"),
    }
    if isinstance(values.get("metrics"), dict):
        metrics |= values["metrics"]
    valid = {name: value for name, value in metrics.items() if _METRIC.fullmatch(name) and _is_number(value)}
    return {name: float(value) for name, value in list(valid.items())[:MAX_METRICS]}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) < 1e18 if isinstance(value, float) else abs(value) < 10**18


def _sha256(value: Any) -> str:
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else ""


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A held-out row whose messages the smoke test uses as a prompt."""

    messages: tuple[Turn, ...]
    """The messages of the prompt; the last one is the user's."""
    answer: str


def read_samples(raw: bytes) -> tuple[Sample, ...]:
    """Parses samples.jsonl, the file with held-out rows in an adapter's folder.

    Raises InvalidArgument ("bad_samples") if a row is malformed or has more than `MAX_ROW_BYTES`, or there are more
    than `MAX_ROWS` rows.
    """
    if len(raw) > MAX_SAMPLES_BYTES:
        raise _rejected(f"has more than {MAX_SAMPLES_BYTES} bytes")
    lines = [(number, line) for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    if len(lines) > MAX_ROWS:
        raise _rejected(f"has {len(lines)} rows; keep {MAX_ROWS} of them")
    return tuple(_sample(number, line) for number, line in lines)


def write_samples(samples: Sequence[Sample]) -> bytes:
    """Returns samples as JSON lines without extra white space, so that `read_samples` does not find a row too long that
    was accepted before.
    """
    rows = (
        {
            "messages": [{"role": turn.role, "content": turn.content} for turn in sample.messages],
            "answer": sample.answer,
        }
        for sample in samples
    )
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows).encode()


def _sample(number: int, line: bytes) -> Sample:
    if len(line) > MAX_ROW_BYTES:
        raise _rejected(f"line {number} has more than {MAX_ROW_BYTES} bytes")
    try:
        row = untrusted_input.parse_object(line)
    except ValueError as error:
        raise _rejected(f"line {number} cannot be read: {error}") from error
    messages, answer = row.get("messages"), row.get("answer")
    if row.keys() != {"messages", "answer"} or not isinstance(messages, list) or not isinstance(answer, str):
        raise _rejected(f'line {number} must be {{"messages": [...], "answer": "..."}}')
    if not messages or not all(_is_turn(message) for message in messages) or messages[-1]["role"] != "user":
        raise _rejected(
            f'line {number}: messages are {{"role": "system", "user" or "assistant", "content": "..."}}, and the last '
            "one is the user's"
        )
    return Sample(tuple(Turn(message["role"], message["content"]) for message in messages), answer)


def _is_turn(message: Any) -> bool:
    if not isinstance(message, Mapping) or message.keys() != {"role", "content"}:
        return False
    return message["role"] in ROLES and isinstance(message["content"], str)


def _rejected(message: str) -> InvalidArgument:
    return InvalidArgument(
        f"{SAMPLES} {message}; it may contain up to {MAX_ROWS} held-out rows", code="bad_samples", param="folder"
    )
