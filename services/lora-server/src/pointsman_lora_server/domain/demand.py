"""The use of adapter versions on an engine, as reported by the engine's lora-server, and the resulting plan of which
engines hold which versions ("placement by demand").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenRate:
    """Tokens per second as two moving averages: `fast` over a short time, to detect peaks, and `slow` over a long time,
    to bridge pauses.
    """

    fast: float = 0.0
    slow: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The properties of one running engine that placement by demand needs."""

    engine: str
    slots: int
    """Number of adapter versions that the engine can hold."""
    reserved: int = 0
    """Number of slots taken by versions that are not placed by demand: pinned versions, and versions placed on every
    engine or by a number of copies."""
    tokens_per_second: float = 1.0
    """The largest number of tokens per second that the engine can generate, above 0."""
    holds: frozenset[str] = frozenset()
    rates: Mapping[str, TokenRate] = field(default_factory=dict)
    """Version -> tokens per second that this engine generates with it; unused versions are missing."""


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """The plan that places adapter versions on engines by demand, as read from Redis."""

    stamp: str = ""
    """A random token that is replaced with each change of the plan; empty if no plan was ever stored."""
    engines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Version -> the engines that should hold it; an empty tuple if no engine had room for it."""
