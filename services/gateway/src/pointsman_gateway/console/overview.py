"""The value objects of the web console's pages, and functions that make them from paths, tasks and engines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

from pointsman_servicekit.confidence_sequences import lower_limit
from pointsman_servicekit.statistics import one_sided_z, wilson_interval

from pointsman_gateway.console.decisions import DecisionRow, DecisionWindow, PathFigures
from pointsman_gateway.domain import UNKNOWN, Path, PathEvidence
from pointsman_gateway.domain.path import AdapterChange, AdapterVersion, Alias
from pointsman_gateway.domain.request import Scope
from pointsman_gateway.engines.engine_state import EngineState
from pointsman_gateway.extensions import Requirements
from pointsman_gateway.routing.path_state import Evidence
from pointsman_gateway.routing.policy_preview import CandidatePreview, PolicyPreview
from pointsman_gateway.routing.wording import ANSWERS_PER_PRICE


@dataclass(frozen=True, slots=True)
class Quality:
    """The mean rating (0 to 1) of a path's answers with its confidence bounds, from feedback and from evaluations."""

    ratings: float
    """The number of ratings, those from evaluations included."""
    mean: float
    """The mean rating, 0 to 1."""
    bound: float
    """The one-sided lower confidence bound of `mean` by which policies decide. It holds at all times at once, however
    often it is looked at."""
    bound_now: float
    """The one-sided lower confidence bound of `mean` by Wilson's formula, which holds for a single look at the
    ratings."""
    evaluated: float
    """The number of ratings that come from evaluations."""


@dataclass(frozen=True, slots=True)
class PathView:
    path: str
    kind: str
    model: str
    adapter: str
    version: str
    """The adapter version that the path uses now. For a path that is not `configured`, the model that answered last."""
    strategies: Sequence[str]
    tasks: Sequence[str]
    """The tasks whose requests or shadow requests the path may answer."""
    unavailable: str
    """The reason why the path cannot be used now; empty if it can be used."""
    configured: bool
    """Whether the path is in the configuration. Otherwise it stands for a model or an adapter that requests
    have named."""
    quality: Quality | None
    """The quality of the path's answers on all tasks together; None if there are no ratings."""
    now: PathFigures | None
    """The path's statistics in the last 15 minutes; None if the path had no requests."""


@dataclass(frozen=True, slots=True)
class CandidateView:
    """A path that may answer requests of one task, as the console shows it: quality, cost, latency and why it is used
    or not.
    """

    path: str
    kind: str
    role: str
    """The path's role, as in `CandidatePreview`: "policy", "fallback", "default" or "shadow"."""
    quality: Quality | None
    """The quality of the path's answers on the task; None if there are no ratings."""
    answers: float
    """Number of the path's answers on the task from which cost and latency are computed."""
    usd_per_1k: float | None
    """Expected dollars for 1,000 answers on the path; None if a price is unknown."""
    estimated: bool
    """Whether the cost is an estimate, because the path has not answered yet."""
    p95_seconds: float
    unavailable: str
    """The reason why the path cannot be used now; empty if it can be used."""
    explanation: str
    """The reason why the policy would choose the path or not; empty if the policy gives none."""


@dataclass(frozen=True, slots=True)
class TaskView:
    task: str
    policy: str
    """The policy's name, such as "best_value"."""
    summary: str
    """The policy's options in words (`Policy.summary`); may be empty."""
    quality_floor: float | None
    """The quality (0 to 1) that the policy requires of a path; None if it requires none."""
    confidence: float
    """The confidence level of the candidates' quality bounds, such as 0.95."""
    escalates: bool
    """Whether another path answers instead if a validator rejects the answer of `choice`."""
    choice: str
    """The path that the policy would choose now."""
    example: str
    """An example request from the configuration; empty if the caller may not see it."""
    reason: str
    requests: int
    """Number of requests for an answer to this task in the last 15 minutes."""
    paths: Sequence[CandidateView]


@dataclass(frozen=True, slots=True)
class EngineView:
    engine: str
    model: str
    ready: bool
    cooling_down: bool
    """Whether the engine has failed or was overloaded, so that it gets no request now, or only a probe."""
    in_flight: int
    resident: Sequence[str]
    detail: str


@dataclass(frozen=True, slots=True)
class CallerView:
    keys: bool
    """Whether the gateway requires an API key of each request."""
    tenant: str
    operator: bool
    """Whether the caller may move adapter aliases."""
    admin: bool
    """Whether the caller may use the admin API."""


@dataclass(frozen=True, slots=True)
class Overview:
    caller: CallerView
    request_log: str
    """Whether the request log can be read: "available", "unavailable" (Redis does not answer), or "none" (no Redis is
    configured)."""
    window: DecisionWindow
    paths: Sequence[PathView]
    tasks: Sequence[TaskView]
    engines: Sequence[EngineView]


@dataclass(frozen=True, slots=True)
class DecisionPage:
    decisions: Sequence[DecisionRow]
    """The decisions, newest first."""
    next: str
    """The value of `before` for the next page; empty if this is the last page."""
    since_unix_ms: int
    """The time, in Unix milliseconds, from which on this page and the pages before it list all decisions that fit the
    query; 0 if there are no older ones."""


@dataclass(frozen=True, slots=True)
class DecisionView:
    entry: Mapping[str, Any]
    """The decision's entry in the request log, whose fields docs/request_log.md describes."""
    feedback: Mapping[str, str]
    """The texts of the feedback on the answer by field, such as `rating`; empty if there is no feedback."""


@dataclass(frozen=True, slots=True)
class EngineAdapters:
    engine: str
    problem: str
    """The reason why the engine's lora-server cannot be read; empty if it can be read."""
    states: Mapping[str, str]
    """The state of each adapter version on this engine, by the version's name; the values are those of
    `AdapterVersion.state`."""


@dataclass(frozen=True, slots=True)
class ModelAdapters:
    model: str
    engines: Sequence[EngineAdapters]
    versions: Sequence[AdapterVersion]
    """The versions as the first reachable lora-server reports them, so their `state` is that on its engine only."""
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
    """Returns one view for each of the configured `paths`, in their order.

    `previews` say which tasks may use a path, and `evidence` has its ratings. Three mappings are by path name and may
    lack paths: `figures` has statistics of recent requests, `unavailable` why a path cannot be used, and `versions` the
    adapter version in use.
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
    """Returns views of models and adapters that recent requests named directly instead of a configured path.

    They are the paths of `rows` that have `figures` (statistics by path name) and are not in `configured`, the names of
    the configured paths. They are in no particular order.
    """
    by_path = {row.path: row for row in rows if row.path in figures}
    return [
        PathView(path, by_path[path].kind, "", "", by_path[path].model, (), (), "", False, None, figures[path])
        for path in by_path.keys() - set(configured)
    ]


def _pooled(evidence: Sequence[PathEvidence]) -> Quality | None:
    default = Requirements()
    counted = [one.with_evaluations(default.max_evaluation_ratings) for one in evidence]
    ratings = sum(one.ratings for one in counted)
    mean = sum(one.ratings * one.quality for one in counted) / (ratings or 1)
    return _quality(PathEvidence(ratings, mean, evaluated=sum(one.evaluated for one in counted)), default.confidence)


def _quality(counted: PathEvidence, confidence: float) -> Quality | None:
    """Returns the quality with its lower confidence bounds; None if there are no ratings."""
    if counted.ratings <= 0:
        return None
    bound = lower_limit(counted.quality, counted.ratings, 1 - confidence)
    now, _ = wilson_interval(counted.quality, counted.ratings, one_sided_z(confidence))
    return Quality(counted.ratings, counted.quality, bound, now, counted.evaluated)


def to_task_view(preview: PolicyPreview, rows: Sequence[DecisionRow], scope: Scope, example: str) -> TaskView:
    policy = preview.policy
    required: Requirements = policy.implementation.requirements(policy.options)
    return TaskView(
        task=preview.task,
        policy=policy.name,
        summary=policy.implementation.summary(policy.options),
        quality_floor=required.quality_floor,
        confidence=required.confidence,
        escalates=preview.escalates,
        choice=preview.choice,
        example=example,
        reason=preview.reason,
        requests=sum(row.task == preview.task and row.is_request for row in rows),
        paths=[
            _to_candidate_view(candidate, required) for candidate in preview.candidates if scope.allows(candidate.path)
        ],
    )


def _to_candidate_view(candidate: CandidatePreview, required: Requirements) -> CandidateView:
    known = candidate.known.evidence.with_evaluations(required.max_evaluation_ratings)
    return CandidateView(
        path=candidate.path.name,
        kind=candidate.path.kind.value,
        role=candidate.role,
        quality=_quality(known, required.confidence),
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
