"""What the console shows, as plain nouns; a door makes JSON of them, field by field."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pointsman_gateway.console.decisions import DecisionRow, PathFigures, Window
from pointsman_gateway.domain import UNKNOWN, Path, PathEvidence
from pointsman_gateway.domain.adapters import AdapterChange, AdapterVersion, Alias
from pointsman_gateway.domain.caller import Scope
from pointsman_gateway.engines.engine_state import EngineState
from pointsman_gateway.routing.policies.best_value import ANSWERS_PER_PRICE, BestValueOptions, lower_bound
from pointsman_gateway.routing.router import CandidatePreview, PolicyPreview


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
class CandidateView:
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
    paths: Sequence[CandidateView]


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
class DecisionPage:
    """Decisions, the newest first."""

    decisions: Sequence[DecisionRow]
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


CONFIDENCE = 0.95
"""Of bounds where no policy says another."""


class Evidence(Protocol):
    """What is known of a path on a task."""

    def of(self, task: str, path: Path) -> PathEvidence: ...


def is_open(scope: Scope, path: Path) -> bool:
    """Whether a key may ever use the path."""
    some_task = next(iter(scope.tasks), "") if scope.tasks is not None else ""
    return scope.denial_reason(some_task, path) is None


def paths_of(
    paths: Iterable[Path],
    previews: Sequence[PolicyPreview],
    evidence: Evidence,
    figures: Mapping[str, PathFigures],
    away: Mapping[str, str],
    versions: Mapping[str, str],
) -> list[PathView]:
    """`away` and `versions` by path, where there is something to say."""
    tasks: dict[str, list[str]] = {}
    for preview in previews:
        for candidate in preview.candidates:
            tasks.setdefault(candidate.path.name, []).append(preview.task)
    return [
        PathView(
            path=path.name,
            kind=path.kind.value,
            model=path.model,
            adapter=path.adapter,
            version=versions.get(path.name, ""),
            strategies=path.strategies,
            tasks=tasks.get(path.name, ()),
            away=away.get(path.name, ""),
            configured=True,
            quality=_pooled([evidence.of(task, path) for task in (*(p.task for p in previews), UNKNOWN)]),
            now=figures.get(path.name),
        )
        for path in paths
    ]


def forced_paths(
    records: Sequence[DecisionRow], known: Iterable[str], figures: Mapping[str, PathFigures]
) -> list[PathView]:
    """Of models and adapters that requests have named, and that no path of the configuration stands for."""
    of = {record.path: record for record in records if record.path in figures}
    return [
        PathView(path, of[path].kind, "", "", of[path].model, (), (), "", False, None, figures[path])
        for path in of.keys() - set(known)
    ]


def _pooled(known: Sequence[PathEvidence]) -> Quality | None:
    rated = sum(one.ratings for one in known)
    if rated <= 0:
        return None
    mean = sum(one.ratings * one.quality for one in known) / rated
    return Quality(rated, mean, lower_bound(mean, rated, CONFIDENCE))


def task_of(preview: PolicyPreview, records: Sequence[DecisionRow], scope: Scope) -> TaskView:
    policy = preview.policy
    options = policy.options if isinstance(policy.options, BestValueOptions) else None
    confidence = options.confidence if options else CONFIDENCE
    return TaskView(
        task=preview.task,
        policy=policy.name,
        weights=policy.options if policy.name == "split" else {},
        quality_floor=options.quality_floor if options else None,
        p95_limit=options.p95_seconds if options else None,
        confidence=confidence,
        choice=preview.choice,
        reason=preview.reason,
        requests=sum(r.task == preview.task and r.asked_for_an_answer for r in records),
        paths=[_candidate(p, confidence) for p in preview.candidates if is_open(scope, p.path)],
    )


def _candidate(candidate: CandidatePreview, confidence: float) -> CandidateView:
    known = candidate.known.evidence
    bound = lower_bound(known.quality, known.ratings, confidence)
    return CandidateView(
        path=candidate.path.name,
        kind=candidate.path.kind.value,
        role=candidate.role,
        quality=Quality(known.ratings, known.quality, bound) if known.ratings > 0 else None,
        answers=known.answers,
        usd_per_1k=candidate.known.cost_usd * ANSWERS_PER_PRICE,
        estimated=known.answers <= 0,
        p95_seconds=known.p95_seconds,
        away=candidate.unavailable,
        said=candidate.explanation,
    )


def engine_of(state: EngineState) -> EngineView:
    engine = state.engine
    return EngineView(
        engine=engine.name,
        model=engine.model,
        ready=engine.ready,
        resting=not state.breaker.closed or state.cooldown_left > 0,
        in_flight=state.in_flight,
        resident=sorted(engine.resident),
        detail=engine.detail,
    )
