"""How much an engine's versions are used, as its lora-server reports it for placement by demand."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenRate:
    """Tokens per second, averaged over two times: a short one that sees peaks, a long one that sees through pauses."""

    fast: float = 0.0
    slow: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The facts about one running engine that placement by demand needs."""

    engine: str
    slots: int
    """Number of versions that the engine can hold."""
    reserved: int = 0
    """Number of slots taken by versions that are not placed by demand: pinned ones, and those on every engine or on a
    number of engines."""
    tokens_per_second: float = 1.0
    """What the engine can generate at most, above 0."""
    holds: frozenset[str] = frozenset()
    rates: Mapping[str, TokenRate] = field(default_factory=dict)
    """Version -> tokens per second that this engine generates with it; versions that are not used are missing."""


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """The plan of placement by demand, as read from Redis."""

    stamp: str = ""
    """A random token that each change of the plan replaces; empty if there was never a plan."""
    engines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Version -> the engines on which it belongs; none if there was no room for it."""
