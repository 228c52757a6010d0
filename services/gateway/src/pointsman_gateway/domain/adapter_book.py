"""Adapters as their registry has them: every version with its state, where aliases point, and what was changed."""

from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_gateway.domain.adapters import Alias


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One version, as it stands with one engine."""

    version: str
    name: str
    state: str
    """ "registered", "validating", "ready", "loading", "warm", "serving", "draining", "retired" or "failed"."""
    aliases: tuple[str, ...]
    """Those that point to it, as what they are or as a canary."""
    pinned: bool
    rank: int
    bytes: int
    created_unix_ms: int
    error_code: str
    error: str
    """What went wrong last, in words; empty where nothing did."""
    metrics: Mapping[str, float]
    """Of its evaluation."""
    parent: str
    author: str


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """One line of the registry's history."""

    at_unix_ms: int
    kind: str
    subject: str
    """The version or the alias."""
    before: str
    after: str
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdapterBook:
    """What one lora-server says of all adapters of its base model."""

    versions: tuple[AdapterVersion, ...]
    aliases: tuple[Alias, ...]
    changes: tuple[AdapterChange, ...]
    """The newest first."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """An alias is to point to a version, for all or (as a canary) for a share of its users."""

    alias: str
    version: str
    """Empty where a canary is to end, or the alias to be rolled back."""
    expected: str
    """Where the alias must point now, or the move is refused; empty: wherever it points."""
    author: str
    weight: float = 1.0
    """Of a canary: above 0 to 1; 0 ends it."""
    force: bool = False
    """Even where the evaluation says that prompting is as good."""
    reason: str = ""
    """Of a rollback, for the history."""
