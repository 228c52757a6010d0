"""What a request is about, and the path that it takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.domain.adapters import Aim
from pointsman_gateway.domain.noun import noun
from pointsman_gateway.domain.sampling import Sampling

UNKNOWN = "unknown"
"""The task of requests that fit no other."""

Vector = NDArray[np.float32]


@noun
class Labels:
    """What the classifier says of a request."""

    task: str
    confidence: float
    probabilities: tuple[tuple[str, float], ...]
    """All tasks, most likely first; they add up to 1."""
    abstained: bool
    stage: str
    """Which one decided: "forced", "rule:NAME", "static", "encoder", "conversation" or "language"."""
    vector: Vector | None = None
    """The embedding of the query, unit length; handed on so that nothing embeds it again."""
    margin: float = 0.0
    """From the first probability to the second."""
    familiarity: float = 0.0
    """How far the request is from what would be abstained from; below 0 it was."""
    notes: tuple[str, ...] = ()
    """What else was noticed: that a text was read in part, that it is in another language, ..."""


class Kind(StrEnum):
    """What sort of path it is; derived from the path, never written."""

    PROMPT = "prompt"
    RAG = "rag"
    LORA = "lora"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Path:
    """One complete way to answer."""

    name: str
    model: str
    adapter: str = ""
    strategies: tuple[str, ...] = ()
    """Names only; the strategies themselves are built from the configuration by `wiring`."""
    sampling: Sampling = field(default_factory=Sampling)
    collections: tuple[str, ...] = ()
    """Where it looks things up."""
    fingerprint: str = ""
    """Of all that the configuration says of it, its prompts included: evidence is of a path as it was."""
    aim: Aim | None = None
    """The version that one request means by `adapter`; None before that is decided, and where there is no adapter."""
    kind: Kind = field(init=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of its adapter."""
        return self.aim.notes if self.aim is not None else ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self._kind())

    def _kind(self) -> Kind:
        looks_up = "retrieval" in self.strategies
        if self.adapter:
            return Kind.HYBRID if looks_up or "few_shot" in self.strategies else Kind.LORA
        return Kind.RAG if looks_up else Kind.PROMPT


@dataclass(frozen=True, slots=True)
class Considered:
    path: str
    outcome: str
    """ "chosen", "skipped", "fallback" or "escalation"."""
    reason: str


@noun
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
    margin: float = 0.0
    familiarity: float = 0.0
    notes: tuple[str, ...] = ()
    generation: str = ""
    """The configuration by which it was decided."""
    escalation: tuple[Path, ...] = ()
    """Where to go, once, if the answer of `path` is not accepted: to the first of them."""
    streams_freely: frozenset[str] = frozenset()
    """Paths whose answers are sent as they come, and so are never followed by another."""

    @property
    def held(self) -> bool:
        """Whether the answer of `path` is judged before any of it is sent."""
        return is_held(self.path, self.escalation, self.streams_freely)

    def fallen_back(self, reason: str) -> "Decision":
        """The decision after `path` failed for `reason`, with the first of the alternatives in its place."""
        following, *rest = self.alternatives
        names = [path.name for path in self.escalation]
        further = self.escalation[names.index(following.name) + 1 :] if following.name in names else ()
        now = replace(
            self,
            path=following,
            reason="fallback",
            alternatives=tuple(rest),
            escalation=further,
            notes=self._noted(following),
        )
        return now._retold(
            Considered(self.path.name, "skipped", reason),
            *in_case(following, further, self.streams_freely),
            last=Considered(following.name, "fallback", f"after {self.path.name}: {reason}"),
        )

    def escalated(self, validator: str, reason: str) -> "Decision":
        """The decision after `validator` refused the answer of `path` for `reason`; the next answer is sent freely."""
        following = self.escalation[0]
        others = tuple(path for path in self.alternatives if path.name != following.name)
        now = replace(
            self,
            path=following,
            reason=f"escalated:{validator}",
            alternatives=others,
            escalation=(),
            notes=self._noted(following),
        )
        return now._retold(
            Considered(self.path.name, "skipped", f"refused: {reason}"),
            last=Considered(following.name, "escalation", f"after {self.path.name}: {validator}"),
        )

    def kept(self, reason: str, following: "Decision", failure: str) -> "Decision":
        """The decision where the answer of `path` was refused for `reason`, and is sent after all.

        `following` had been decided instead, and neither its path nor its alternatives could answer for `failure`.
        """
        failed = (following.path, *following.alternatives)
        return replace(self, alternatives=(), escalation=())._retold(
            *(Considered(path.name, "skipped", failure) for path in failed),
            last=Considered(self.path.name, "chosen", f"refused: {reason}; but {following.path.name}: {failure}"),
        )

    def _noted(self, following: Path) -> tuple[str, ...]:
        """The notes, and those of the path that takes over."""
        return tuple(dict.fromkeys((*self.notes, *following.notes)))

    def _retold(self, *anew: Considered, last: Considered) -> "Decision":
        """With other words on the paths of `anew`, and `last` at the end."""
        words = {considered.path: considered for considered in anew}
        rest = (words.get(c.path, c) for c in self.considered if c.path != last.path)
        return replace(self, considered=(*rest, last))


def is_held(path: Path, escalation: Sequence[Path], streams_freely: frozenset[str]) -> bool:
    """Whether the answer of `path` is judged before any of it is sent."""
    return bool(escalation) and path.name not in streams_freely


def in_case(path: Path, escalation: Sequence[Path], streams_freely: frozenset[str]) -> tuple[Considered, ...]:
    """What is to be said of the path that is next if the answer of `path` is not accepted."""
    if not is_held(path, escalation, streams_freely):
        return ()
    return (Considered(escalation[0].name, "escalation", f"if the answer of {path.name} is not accepted"),)
