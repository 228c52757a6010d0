"""What is sent to an engine, what comes back, and what it took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pointsman_gateway.domain.caller import ANYONE, Caller
from pointsman_gateway.domain.decision import Decision, Vector
from pointsman_gateway.domain.noun import noun
from pointsman_gateway.domain.request import Message

PICO = 10**12
"""Dollars are counted in whole picodollars, so that sums are the same in any order: a price of a millionth of a dollar
for a million tokens is one of these a token."""


def to_microseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """To six digits behind the point, by phase. `round` takes three times as long for that."""
    return {phase: round(value * 1e6) / 1e6 for phase, value in seconds.items()}


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
    embeddings: int = 0
    """Texts that were embedded to make it."""
    vector: Vector | None = field(default=None, compare=False)
    """Of the question, where it was known or needed."""


@dataclass(frozen=True, slots=True)
class EngineSeconds:
    """What an engine tells of its own time with one answer."""

    queue: float | None = None
    """Until it began to work on it."""
    inference: float | None = None
    """From then to the last token."""


@noun
class Usage:
    """What an engine has counted of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the engine had in its prefix cache."""
    seconds: EngineSeconds | None = field(default=None, compare=False)
    """None where the engine does not tell; sums have none."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


class Chunk(msgspec.Struct, gc=False, eq=False):
    """One piece of an engine's answer. Nobody changes one. They are made by the dozen for each answer: as a dataclass
    each would take three times as long."""

    index: int = 0
    content: str = ""
    finish_reason: str | None = None
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """What else the engine's choice holds: {"delta": {...}, "logprobs": ...} without content and role."""
    usage: Usage | None = None
    raw: bytes = b""
    """The engine's event as it came (JSON), where it holds this choice alone; empty where it may not be sent on."""
    pieces: int = 1
    """Of the engine's events, how many it says: more than one where they came together, and are wanted as a whole."""

    def __eq__(self, other: object) -> bool:
        """Whether it says the same, however that was written."""
        return isinstance(other, Chunk) and self._said() == other._said()

    __hash__ = None  # type: ignore[assignment]  # as of everything that has a mapping in it

    def _said(self) -> tuple[Any, ...]:
        return self.index, self.content, self.finish_reason, self.extra, self.usage


Chunks = tuple[Chunk, ...]
"""What one read of an engine's stream brought."""


@dataclass(slots=True)
class Receipt:
    """What happened to a request that was decided. Nobody changes one; it is not frozen, since that would make it cost
    thrice."""

    decision: Decision
    usage: Usage
    picodollars: Mapping[str, int]
    """By component."""
    seconds: Mapping[str, float]
    """By phase; beside them "first_token" and "total", both since the request's arrival."""
    outcome: str
    """ "ok", "routed", "cancelled" or the code of an error; one of `OUTCOMES`."""
    sources: Sequence[Passage] = ()
    model: str = ""
    """What answered, as the engine knows it: the base model or an adapter's version; empty where nothing did."""
    escalated_from: str = ""
    """The path whose answer was not accepted; what it cost is in this receipt too."""
    cached: str = ""
    """ "exact" or "semantic" where the answer came out of the cache; empty where an engine made it."""
    fault: str = "none"
    request_id: str = ""
    _in_dollars: dict[str, float] | None = field(default=None, init=False, repr=False, compare=False)
    _rounded: dict[str, float] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def cost_usd(self) -> float:
        return sum(self.picodollars.values()) / PICO

    @property
    def cost_parts_usd(self) -> dict[str, float]:
        """By component. Told to the caller and to the journal, and so made once."""
        if self._in_dollars is None:
            self._in_dollars = {component: amount / PICO for component, amount in self.picodollars.items()}
        return self._in_dollars

    @property
    def microseconds(self) -> dict[str, float]:
        """The seconds by phase, `to_microseconds`; made once, too."""
        if self._rounded is None:
            self._rounded = to_microseconds(self.seconds)
        return self._rounded


@dataclass(frozen=True, slots=True)
class Undecided:
    """The receipt of a request that came to no decision, or that needs none: it was refused, its caller hung up, or it
    wanted embeddings."""

    request_id: str
    operation: str
    """ "chat", "completion", "route" or "embeddings"."""
    outcome: str
    fault: str
    seconds: Mapping[str, float]
    """As a receipt's."""
    caller: Caller = ANYONE
    """Who asked, as far as that is known."""
    counted: bool = False
    """Whether the caller's key counts it as one of its requests."""
    model: str = ""
    """Of embeddings: as the configuration calls it."""
    usage: Usage = field(default_factory=Usage)
    picodollars: Mapping[str, int] = field(default_factory=dict)

    @property
    def cost_usd(self) -> float:
        return sum(self.picodollars.values()) / PICO


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
