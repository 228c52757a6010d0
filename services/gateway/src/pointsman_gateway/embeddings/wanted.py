"""What is to be embedded, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pointsman_gateway.domain import Request

CHARACTERS_PER_TOKEN = 4
"""A usual figure for English; only for what is reserved before anything is spent."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be embedded, and how."""

    request: Request
    """Who asks, for which model, and until when; its messages are the texts, for admission."""
    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    """Texts as some tokenizer's numbers; either these or `texts`."""
    base64: bool = False
    """Vectors as base64 of little-endian 32-bit floats, instead of as lists of numbers."""
    dimensions: int | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    """The request as it came, for a model that is elsewhere."""

    @property
    def estimated_tokens(self) -> int:
        """Before anything has counted them."""
        return sum(len(t) // CHARACTERS_PER_TOKEN + 1 for t in self.texts) + sum(len(t) for t in self.tokens)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors, in order, with what it took."""

    pieces: tuple[bytes, ...]
    """The body of OpenAI's answer, in JSON and in pieces: whole it would hold up the event loop."""
    tokens: int
    usd: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    """How the caller's limits stand."""
