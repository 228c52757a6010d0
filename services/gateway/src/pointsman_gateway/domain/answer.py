"""What is sent to an engine, what comes back, and what it took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_gateway.domain.decision import Decision
from pointsman_gateway.domain.noun import noun
from pointsman_gateway.domain.request import Message


@dataclass(frozen=True, slots=True)
class Passage:
    document_id: str
    title: str
    text: str
    score: float
    start: int = 0  # in its document, in characters
    tokens: int = 0  # of the text, as the retriever counts them


@noun
class Prompt:
    """What is sent to the engine."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: tuple[tuple[str, int], ...] = ()
    """(collection, its version) of each search that was answered."""


@noun
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the engine had in its prefix cache."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(slots=True)
class Chunk:
    """One piece of an engine's answer. Nobody changes one; it is not frozen, since that would make each cost thrice."""

    index: int = 0
    content: str = ""
    finish_reason: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the engine's choice holds: {"delta": {...}, "logprobs": ...} without content and role."""
    usage: Usage | None = None
    raw: bytes = field(default=b"", compare=False)
    """The engine's event as it came (JSON), where it holds this choice alone; empty where it may not be sent on."""


Chunks = tuple[Chunk, ...]
"""What one read of an engine's stream brought."""


@noun
class Receipt:
    """What happened."""

    decision: Decision
    usage: Usage
    cost_parts_usd: Mapping[str, float]
    seconds: Mapping[str, float]
    outcome: str
    """ "ok", "cancelled" or the code of an error."""
    sources: Sequence[Passage] = ()
    model: str = ""
    """What answered, as the engine knows it: the base model or an adapter's version; empty where nothing did."""
    escalated_from: str = ""
    """The path whose answer was not accepted; what it cost is in this receipt too."""
    cached: str = ""
    """ "exact" or "semantic" where the answer came out of the cache; empty where an engine made it."""

    @property
    def cost_usd(self) -> float:
        return sum(self.cost_parts_usd.values())


@dataclass(frozen=True, slots=True)
class Answered:
    """One path's answer, come to its end."""

    path: str
    text: str
    verdicts: tuple[tuple[str, str, str], ...] = ()
    """(validator, "accepted", "refused" or "unjudged", why)."""


@noun
class Started:
    decision: Decision
    model: str
    overhead_seconds: float
    """From the request's arrival to its sending to the engine, without retrieval."""
    cached: str = ""
    """As in the receipt."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """How the caller's limits stand, as HTTP headers."""


@noun
class Finished:
    finish_reason: str
    receipt: Receipt


Event = Started | Chunks | Finished
