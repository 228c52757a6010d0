"""The value objects that the console shows, and how paths, tasks and engines are converted to them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

from pointsman_gateway.console.decisions import DecisionRow, DecisionWindow, PathFigures
from pointsman_gateway.domain import UNKNOWN, Path, PathEvidence
from pointsman_gateway.domain.path import AdapterChange, AdapterVersion, Alias
from pointsman_gateway.domain.request import Scope
from pointsman_gateway.engines.engine_state import EngineState
from pointsman_gateway.routing.path_state import Evidence
from pointsman_gateway.routing.policies import (
    ANSWERS_PER_PRICE,
    MAX_EVALUATION_RATINGS,
    BestValueOptions,
    lower_bound,
)
from pointsman_gateway.routing.policy_preview import CandidatePreview, PolicyPreview

DEFAULT_CONFIDENCE = 0.95
"""Confidence of lower bounds, if the policy does not set one."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Measured quality of a path, from 0 to 1, by its ratings from feedback, scorers and evaluations."""

    ratings: float
    mean: float
    bound: float
    """Lower confidence bound of the mean."""
    evaluated: float
    """The number of ratings that are from evaluations."""


@dataclass(frozen=True, slots=True)
class PathView:
    path: str
    kind: str
    model: str
    adapter: str
    version: str
    """The adapter version that requests use now."""
    strategies: Sequence[str]
    tasks: Sequence[str]
    """Tasks whose policy, fallbacks or shadow requests include the path."""
    unavailable: str
    """Why the path cannot be used now; empty if it can."""
    configured: bool
    """False for a model or adapter that is no path of the configuration, and that requests have named."""
    quality: Quality | None
    """Over all tasks; None without ratings."""
    now: PathFigures | None


@dataclass(frozen=True, slots=True)
class CandidateView:
    """A path as a candidate of a task's policy, with its quality, cost and latency."""

    path: str
    kind: str
    role: str
    quality: Quality | None
    answers: float
    usd_per_1k: float | None
    estimated: bool
    """The cost is estimated, because the path has not answered yet."""
    p95_seconds: float
    unavailable: str
    explanation: str


@dataclass(frozen=True, slots=True)
class TaskView:
    task: str
    policy: str
    """ "fixed", "split", "best_value", "escalate", "predicted" or an extension's name."""
    weights: Mapping[str, float]
    """By path; of a split policy."""
    quality_floor: float | None
    p95_limit: float | None
    confidence: float
    choice: str
    reason: str
    requests: int
    """Requests in the window."""
    paths: Sequence[CandidateView]


@dataclass(frozen=True, slots=True)
class EngineView:
    engine: str
    model: str
    ready: bool
    cooling_down: bool
    """It has failed or was overloaded, and gets no requests for a while."""
    in_flight: int
    resident: Sequence[str]
    detail: str


@dataclass(frozen=True, slots=True)
class CallerView:
    keys: bool
    """Whether this gateway requires keys."""
    tenant: str
    operator: bool
    admin: bool


@dataclass(frozen=True, slots=True)
class Overview:
    caller: CallerView
    request_log: str
    """ "available", "unavailable", or "none" in a gateway without Redis."""
    window: DecisionWindow
    paths: Sequence[PathView]
    tasks: Sequence[TaskView]
    engines: Sequence[EngineView]


@dataclass(frozen=True, slots=True)
class DecisionPage:
    decisions: Sequence[DecisionRow]
    """Newest first."""
    next: str
    """The entry id before which the next page begins; empty if there is none."""


@dataclass(frozen=True, slots=True)
class DecisionView:
    entry: Mapping[str, Any]
    """The entry of the request log."""
    feedback: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EngineAdapters:
    engine: str
    problem: str
    """Why its lora-server cannot be read; empty if it can."""
    states: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelAdapters:
    model: str
    engines: Sequence[EngineAdapters]
    versions: Sequence[AdapterVersion]
    aliases: Sequence[Alias]
    changes: Sequence[AdapterChange]


def to_path_views(
    paths: Iterable[Path],
    previews: Sequence[PolicyPreview],
    evidence: Evidence,
    figures: Mapping[str, PathFigures],
    unavailable: Mapping[str, str],
    versions: Mapping[str, str],
) -> list[PathView]:
    """Converts paths for the console. All mappings are by path name: `figures` of the window's requests, reasons why
    a path is `unavailable`, and adapter `versions`; paths without one are missing there.
    """
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
            unavailable=unavailable.get(path.name, ""),
            configured=True,
            quality=_pooled([evidence.of(task, path) for task in (*(p.task for p in previews), UNKNOWN)]),
            now=figures.get(path.name),
        )
        for path in paths
    ]


def to_named_views(
    rows: Sequence[DecisionRow], configured: Iterable[str], figures: Mapping[str, PathFigures]
) -> list[PathView]:
    """Returns the models and adapters that requests have named and that are not configured as paths; those without
    `figures` are left out.
    """
    by_path = {row.path: row for row in rows if row.path in figures}
    return [
        PathView(path, by_path[path].kind, "", "", by_path[path].model, (), (), "", False, None, figures[path])
        for path in by_path.keys() - set(configured)
    ]


def _pooled(evidence: Sequence[PathEvidence]) -> Quality | None:
    counted = [one.with_evaluations(MAX_EVALUATION_RATINGS) for one in evidence]
    ratings = sum(one.ratings for one in counted)
    mean = sum(one.ratings * one.quality for one in counted) / (ratings or 1)
    return _quality(PathEvidence(ratings, mean, evaluated=sum(one.evaluated for one in counted)), DEFAULT_CONFIDENCE)


def _quality(counted: PathEvidence, confidence: float) -> Quality | None:
    """Returns the quality with its lower confidence bound; None without ratings."""
    if counted.ratings <= 0:
        return None
    bound = lower_bound(counted.quality, counted.ratings, confidence)
    return Quality(counted.ratings, counted.quality, bound, counted.evaluated)


def to_task_view(preview: PolicyPreview, rows: Sequence[DecisionRow], scope: Scope) -> TaskView:
    policy = preview.policy
    options = policy.options if isinstance(policy.options, BestValueOptions) else None
    confidence = options.confidence if options else DEFAULT_CONFIDENCE
    max_evaluations = options.max_evaluation_ratings if options else MAX_EVALUATION_RATINGS
    return TaskView(
        task=preview.task,
        policy=policy.name,
        weights=policy.implementation.weights(policy.options),
        quality_floor=options.quality_floor if options else None,
        p95_limit=options.p95_seconds if options else None,
        confidence=confidence,
        choice=preview.choice,
        reason=preview.reason,
        requests=sum(row.task == preview.task and row.is_request for row in rows),
        paths=[
            _to_candidate_view(candidate, confidence, max_evaluations)
            for candidate in preview.candidates
            if scope.allows(candidate.path)
        ],
    )


def _to_candidate_view(candidate: CandidatePreview, confidence: float, max_evaluations: int) -> CandidateView:
    known = candidate.known.evidence.with_evaluations(max_evaluations)
    return CandidateView(
        path=candidate.path.name,
        kind=candidate.path.kind.value,
        role=candidate.role,
        quality=_quality(known, confidence),
        answers=known.answers,
        usd_per_1k=None if isinf(candidate.known.cost_usd) else candidate.known.cost_usd * ANSWERS_PER_PRICE,
        estimated=known.answers <= 0,
        p95_seconds=known.p95_seconds,
        unavailable=candidate.unavailable,
        explanation=candidate.explanation,
    )


def to_engine_view(state: EngineState) -> EngineView:
    engine = state.engine
    return EngineView(
        engine=engine.name,
        model=engine.model,
        ready=engine.ready,
        cooling_down=not state.breaker.closed or state.cooldown_left > 0,
        in_flight=state.in_flight,
        resident=sorted(engine.resident),
        detail=engine.detail,
    )
