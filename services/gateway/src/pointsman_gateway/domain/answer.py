"""An answer: its start, its chunks and its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pointsman_gateway.domain.decision import Decision
from pointsman_gateway.domain.receipt import Receipt
from pointsman_gateway.domain.usage import Usage
from pointsman_gateway.domain.value import value


class Chunk(msgspec.Struct, gc=False, eq=False):
    """One piece of an engine's answer, treated as immutable. Each answer has dozens, and a dataclass would take three
    times as long to construct."""

    index: int = 0
    content: str = ""
    finish_reason: str | None = None
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Other fields of the engine's choice: {"delta": {...}, "logprobs": ...} without content and role."""
    usage: Usage | None = None
    raw: bytes = b""
    """The engine's event as received (JSON), if it holds this choice alone; empty if it must not be forwarded."""
    event_count: int = 1
    """The number of engine events in this chunk: more than 1 if events that arrived together were joined."""

    def __eq__(self, other: object) -> bool:
        """Compares chunks by content, not by the bytes in `raw`."""
        return isinstance(other, Chunk) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]  # a mapping among the fields cannot be hashed

    def _content(self) -> tuple[Any, ...]:
        return self.index, self.content, self.finish_reason, self.extra, self.usage


Chunks = tuple[Chunk, ...]
"""The chunks of one read from an engine's stream."""


@dataclass(frozen=True, slots=True)
class CompletedAnswer:
    """The whole text of one path's answer, with the validators' verdicts on it."""

    path: str
    text: str
    verdicts: tuple[tuple[str, str, str], ...] = ()
    """(validator, "accepted", "refused" or "unjudged", reason)."""


@value
class Started:
    """The first event of an answer: a path has been chosen and the engine begins to answer."""

    decision: Decision
    model: str
    overhead_seconds: float
    """From the request's arrival until it was sent to the engine, without retrieval."""
    cached: str = ""
    """As in the receipt."""
    limit_headers: Mapping[str, str] = field(default_factory=dict)
    """The state of the caller's limits, as HTTP headers."""


@value
class Finished:
    """The last event of a complete answer."""

    finish_reason: str
    receipt: Receipt


Event = Started | Chunks | Finished
