"""The events of an answer (its start, its chunks and its end), and the whole text of an answer for the request log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pointsman_gateway.domain.decision import Decision
from pointsman_gateway.domain.receipt import Receipt
from pointsman_gateway.domain.usage import Usage
from pointsman_gateway.domain.value import value


class Chunk(msgspec.Struct, gc=False, eq=False):
    """One piece of an engine's streamed answer: some text, or the reason why the answer ended, or the token counts.

    Treat it as immutable. It is no dataclass, since that takes three times as long to construct, and each answer has
    dozens of chunks.
    """

    index: int = 0
    """The number of the choice, from 0; an answer has several if the client asks for them by `n`."""
    content: str = ""
    finish_reason: str | None = None
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Other fields of the choice in the engine's event: {"delta": {...}, "logprobs": ...} without content and role."""
    usage: Usage | None = None
    raw: bytes = b""
    """The engine's event as received (JSON), if it has only this choice and may be forwarded unchanged; else empty."""
    event_count: int = 1
    """The number of engine events in this chunk: more than 1 if events that arrived together were joined."""

    def __eq__(self, other: object) -> bool:
        """Compares all fields except `raw` and `event_count`."""
        return isinstance(other, Chunk) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]  # a mapping among the fields cannot be hashed

    def _content(self) -> tuple[Any, ...]:
        return self.index, self.content, self.finish_reason, self.extra, self.usage


Chunks = tuple[Chunk, ...]
"""Chunks of one answer that arrived together."""


@dataclass(frozen=True, slots=True)
class CompletedAnswer:
    """The whole text with which one path (a configured way to answer) answered a request, and the verdicts of the
    validators.

    It is made only of an answer with one choice that has text and calls no tools.
    """

    path: str
    text: str
    verdicts: tuple[tuple[str, str, str], ...] = ()
    """One tuple for each validator: its name, "accepted", "refused" or "unjudged", and the reason."""


@value
class Started:
    """The first event of an answer, with the routing decision; the first chunk has arrived (from an engine or the
    cache).
    """

    decision: Decision
    model: str
    overhead_seconds: float
    """Seconds of the gateway's own work: from the request's arrival to the decision, and to build prompts, without
    retrieval."""
    cached: str = ""
    """How the cache answered: "exact" or "semantic"; empty if an engine made the answer."""
    limit_headers: Mapping[str, str] = field(default_factory=dict)
    """The state of the caller's limits, as HTTP headers."""


@value
class Finished:
    """The last event of a complete answer: why the answer ended, and the receipt with the tokens, cost and time of the
    request.
    """

    finish_reason: str
    receipt: Receipt


Event = Started | Chunks | Finished
