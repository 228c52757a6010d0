"""Paths and tasks as the policy sees them now, beside what they do."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pointsman_gateway.backends.engines import Cell
from pointsman_gateway.config.schema import Policy
from pointsman_gateway.console.figures import PathFigures
from pointsman_gateway.console.record import Record
from pointsman_gateway.console.views import EngineView, PathView, ProspectView, Quality, TaskView
from pointsman_gateway.domain import UNKNOWN, Path, PathEvidence
from pointsman_gateway.domain.caller import Scope
from pointsman_gateway.routing.best_value import A_THOUSAND, lower_bound
from pointsman_gateway.routing.outlook import Outlook, Prospect

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
    outlooks: Sequence[Outlook],
    evidence: Evidence,
    figures: Mapping[str, PathFigures],
    away: Mapping[str, str],
    versions: Mapping[str, str],
) -> list[PathView]:
    """`away` and `versions` by path, where there is something to say."""
    tasks: dict[str, list[str]] = {}
    for outlook in outlooks:
        for prospect in outlook.prospects:
            tasks.setdefault(prospect.path.name, []).append(outlook.task)
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
            quality=_pooled([evidence.of(task, path) for task in (*(o.task for o in outlooks), UNKNOWN)]),
            now=figures.get(path.name),
        )
        for path in paths
    ]


def forced_paths(records: Sequence[Record], known: Iterable[str], figures: Mapping[str, PathFigures]) -> list[PathView]:
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


def task_of(outlook: Outlook, records: Sequence[Record], scope: Scope) -> TaskView:
    policy, terms = outlook.policy, outlook.policy.best_value
    confidence = terms.confidence if terms else CONFIDENCE
    return TaskView(
        task=outlook.task,
        policy=_name(policy),
        weights=policy.split,
        quality_floor=terms.quality_floor if terms else None,
        p95_limit=terms.p95_seconds if terms else None,
        confidence=confidence,
        choice=outlook.choice,
        reason=outlook.reason,
        requests=sum(r.task == outlook.task and r.asked_for_an_answer for r in records),
        paths=[_prospect(p, confidence) for p in outlook.prospects if is_open(scope, p.path)],
    )


def _name(policy: Policy) -> str:
    return next(name for name in type(policy).model_fields if getattr(policy, name))


def _prospect(prospect: Prospect, confidence: float) -> ProspectView:
    known = prospect.known.evidence
    bound = lower_bound(known.quality, known.ratings, confidence)
    return ProspectView(
        path=prospect.path.name,
        kind=prospect.path.kind.value,
        role=prospect.role,
        quality=Quality(known.ratings, known.quality, bound) if known.ratings > 0 else None,
        answers=known.answers,
        usd_per_1k=prospect.known.cost_usd * A_THOUSAND,
        estimated=known.answers <= 0,
        p95_seconds=known.p95_seconds,
        away=prospect.away,
        said=prospect.said,
    )


def engine_of(cell: Cell) -> EngineView:
    engine = cell.engine
    return EngineView(
        engine=engine.name,
        model=engine.model,
        ready=engine.ready,
        resting=not cell.breaker.closed or cell.rest_left > 0,
        in_flight=cell.in_flight,
        resident=sorted(engine.resident),
        detail=engine.detail,
    )
