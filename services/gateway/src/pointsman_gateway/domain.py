"""The nouns that travel down the line; they know the standard library and arrays, nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

AUTO = "auto"
"""The model's name by which a request leaves the choice to the gateway."""

UNKNOWN = "unknown"
"""The task of requests that fit no other."""

Vector = NDArray[np.float32]


class Kind(StrEnum):
    """What sort of path it is; derived from the path, never written."""

    PROMPT = "prompt"
    RAG = "rag"
    LORA = "lora"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the message carries ("name", "tool_calls", "tool_call_id"), for the engine."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None is "as the path says, else as the engine does"."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """OpenAI parameters on which the gateway has no opinion, passed to the engine untouched."""

    def over(self, default: "Sampling") -> "Sampling":
        """This one, with the gaps filled from `default`."""
        return Sampling(
            max_tokens=self.max_tokens if self.max_tokens is not None else default.max_tokens,
            temperature=self.temperature if self.temperature is not None else default.temperature,
            top_p=self.top_p if self.top_p is not None else default.top_p,
            seed=self.seed if self.seed is not None else default.seed,
            stop=self.stop or default.stop,
            extra={**default.extra, **self.extra},
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What a door has decoded."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    deadline: float = float("inf")
    """On the event loop's clock, seconds."""

    @property
    def query(self) -> str:
        """The text that is classified and looked up: the last user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


@dataclass(frozen=True, slots=True)
class Labels:
    """What the classifier says of a request."""

    task: str
    confidence: float
    probabilities: tuple[tuple[str, float], ...]
    """All tasks, most likely first; they add up to 1."""
    abstained: bool
    stage: str
    vector: Vector | None = None
    """The embedding of the query, unit length; handed on so that nothing embeds it again."""


@dataclass(frozen=True, slots=True)
class Path:
    """One complete way to answer."""

    name: str
    model: str
    adapter: str = ""
    strategies: tuple[str, ...] = ()
    """Names only; the strategies themselves are built from the configuration by `wiring`."""
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def kind(self) -> Kind:
        looks_up = "retrieval" in self.strategies
        if self.adapter:
            return Kind.HYBRID if looks_up or "few_shot" in self.strategies else Kind.LORA
        return Kind.RAG if looks_up else Kind.PROMPT


@dataclass(frozen=True, slots=True)
class Considered:
    path: str
    outcome: str
    """ "chosen", "skipped" or "fallback"."""
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    id: str
    task: str
    confidence: float
    path: Path
    reason: str
    stage: str
    considered: tuple[Considered, ...]
    alternatives: tuple[Path, ...]
    """Where to go next if `path` fails before its first token, in order."""
    probabilities: tuple[tuple[str, float], ...] = ()
    expected_cost_usd: float = 0.0
    vector: Vector | None = None

    def fallen_back(self, reason: str) -> "Decision":
        """The decision after `path` failed for `reason`, with the first of the alternatives in its place."""
        following, *rest = self.alternatives
        return replace(
            self,
            path=following,
            reason="fallback",
            alternatives=tuple(rest),
            considered=(
                *(
                    c if c.path != self.path.name else replace(c, outcome="skipped", reason=reason)
                    for c in self.considered
                    if c.path != following.name
                ),
                Considered(following.name, "fallback", f"after {self.path.name}: {reason}"),
            ),
        )


@dataclass(frozen=True, slots=True)
class Passage:
    document_id: str
    title: str
    text: str
    score: float
    start: int = 0  # in its document, in characters
    tokens: int = 0  # of the text, as the retriever counts them


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent to the engine."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the engine had in its prefix cache."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of an engine's answer."""

    index: int = 0
    content: str = ""
    finish_reason: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the engine's choice holds: {"delta": {...}, "logprobs": ...} without content and role."""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What happened."""

    decision: Decision
    usage: Usage
    cost_parts_usd: Mapping[str, float]
    seconds: Mapping[str, float]
    outcome: str
    """ "ok", "cancelled" or the code of an error."""
    sources: Sequence[Passage] = ()

    @property
    def cost_usd(self) -> float:
        return sum(self.cost_parts_usd.values())


@dataclass(frozen=True, slots=True)
class Started:
    decision: Decision
    model: str
    overhead_seconds: float
    """From the request's arrival to its sending to the engine, without retrieval."""


@dataclass(frozen=True, slots=True)
class Finished:
    finish_reason: str
    receipt: Receipt


Event = Started | Chunk | Finished
