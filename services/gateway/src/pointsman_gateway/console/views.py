"""What the console shows, as plain nouns; a door makes JSON of them, field by field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.console.figures import PathFigures, Window
from pointsman_gateway.console.record import Record
from pointsman_gateway.domain.adapters import AdapterChange, AdapterVersion, Alias


@dataclass(frozen=True, slots=True)
class Quality:
    """What ratings say."""

    rated: float
    mean: float
    bound: float
    """The true mean is at least that, with the confidence of the task's policy, or of 0.95."""


@dataclass(frozen=True, slots=True)
class PathView:
    path: str
    kind: str
    model: str
    adapter: str
    version: str
    """Of the adapter, where requests would be sent now."""
    strategies: Sequence[str]
    tasks: Sequence[str]
    """Whose policy names it, or that fall back to it."""
    away: str
    """Why it cannot be used now; empty where it can."""
    configured: bool
    """False: requests have named its model or adapter."""
    quality: Quality | None
    """Over all tasks; None where nobody has rated it."""
    now: PathFigures | None


@dataclass(frozen=True, slots=True)
class ProspectView:
    """A path in the picture of a task."""

    path: str
    kind: str
    role: str
    quality: Quality | None
    answers: float
    usd_per_1k: float
    estimated: bool
    """The cost is an estimate: there were no answers yet."""
    p95_seconds: float
    away: str
    said: str


@dataclass(frozen=True, slots=True)
class TaskView:
    task: str
    policy: str
    """ "fixed", "split", "best_value" or "escalate"."""
    weights: Mapping[str, float]
    """Of a split, by path."""
    quality_floor: float | None
    p95_limit: float | None
    confidence: float
    choice: str
    reason: str
    requests: int
    """In the window."""
    paths: Sequence[ProspectView]


@dataclass(frozen=True, slots=True)
class EngineView:
    engine: str
    model: str
    ready: bool
    resting: bool
    """It failed, or was overloaded, and is left alone for a while."""
    in_flight: int
    resident: Sequence[str]
    detail: str


@dataclass(frozen=True, slots=True)
class CallerView:
    keys: bool
    """Whether this gateway asks for keys."""
    tenant: str
    operator: bool


@dataclass(frozen=True, slots=True)
class Overview:
    caller: CallerView
    journal: str
    """ "read", "none" (the gateway runs without Redis) or "away"."""
    window: Window
    paths: Sequence[PathView]
    tasks: Sequence[TaskView]
    engines: Sequence[EngineView]


@dataclass(frozen=True, slots=True)
class Page:
    """Decisions, the newest first."""

    decisions: Sequence[Record]
    further: str
    """Where the next page begins; empty where there is none."""


@dataclass(frozen=True, slots=True)
class DecisionView:
    entry: Mapping[str, Any]
    """As the journal has it."""
    said: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EngineAdapters:
    """How versions stand with one engine."""

    engine: str
    problem: str
    """Why its lora-server says nothing; empty where it does."""
    states: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelAdapters:
    """One registry: all adapters of a base model."""

    model: str
    engines: Sequence[EngineAdapters]
    versions: Sequence[AdapterVersion]
    aliases: Sequence[Alias]
    changes: Sequence[AdapterChange]
