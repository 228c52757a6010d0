"""Wraps the request log and the feedback service so that a share of the requests is answered by a second path."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from pointsman_scoring import metric_from
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.process import Schedule, running_periodically
from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.persistence import Persistence
from pointsman_gateway.bootstrap.stages import to_path
from pointsman_gateway.config.checks import SELF_CONTAINED_METRICS
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import ShadowConfig
from pointsman_gateway.domain import Path, Request
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.pipeline.ports import RequestLog
from pointsman_gateway.shadow.budget import SETTLE_INTERVAL_S, DailyBudget
from pointsman_gateway.shadow.runner import MAX_CONCURRENT, ShadowPipeline, ShadowRunner
from pointsman_gateway.shadow.scoring import PairScorer, ScoreFunction, ShadowMetrics
from pointsman_gateway.shadow.stage import FeedbackTaker, ScoringFeedback, Shadowing


@dataclass(slots=True)
class ShadowSettings:
    """Which tasks are shadowed, by the active configuration."""

    tasks: Mapping[str, ShadowConfig] = field(default_factory=dict)
    scores: Mapping[str, ScoreFunction] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)

    def apply_config(self, config: Config) -> None:
        shadowed = {name: task for name, task in config.tasks.tasks.items() if task.shadow is not None}
        self.tasks = {name: task.shadow for name, task in shadowed.items() if task.shadow is not None}
        self.paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
        self.scores = {
            name: metric_from(task.metric.model_dump(exclude_unset=True)).score
            for name, task in shadowed.items()
            if task.metric and task.metric.name in SELF_CONTAINED_METRICS and config.tasks.request_log.store_messages
        }

    def is_allowed(self, request: Request, task: str, path: str) -> bool:
        """Whether the request's caller may use the task and the path."""
        return request.caller.scope.denial_reason(task, self.paths[path]) is None


@dataclass(frozen=True, slots=True)
class ShadowWrappers:
    """The request log and the feedback service, with shadowing."""

    request_log: RequestLog
    feedback: FeedbackTaker


@asynccontextmanager
async def open_shadowing(
    persistence: Persistence,
    stages: Callable[[], Stages],
    settings: ShadowSettings,
    admission: Admission,
    registry: CollectorRegistry,
) -> AsyncIterator[ShadowWrappers]:
    """At the end of the block, shadow requests in progress are stopped, and what they cost is stored."""
    metrics, store = ShadowMetrics(registry), persistence.shadows
    budget = DailyBudget(store)
    runner = ShadowRunner(ShadowPipeline(stages, MAX_CONCURRENT), budget, lambda: _is_busy(admission), metrics)
    scoring = PairScorer(persistence.evidence, metrics, store, lambda: settings.scores)
    request_log = Shadowing(persistence.request_log, runner, settings, scoring)
    if store is None:
        try:
            yield ShadowWrappers(request_log, persistence.feedback)
        finally:
            await runner.stop()
        return

    async def settle() -> None:
        await budget.settle()
        await store.write()

    schedule = Schedule(SETTLE_INTERVAL_S)
    with suppress(Unavailable):
        await settle()
    try:
        async with running_periodically(settle, schedule, "settle the budget of shadow requests"):
            yield ShadowWrappers(request_log, ScoringFeedback(persistence.feedback, store, scoring))
    finally:
        await runner.stop()
        with suppress(Unavailable):
            await settle()


def _is_busy(admission: Admission) -> bool:
    """Whether requests wait for a slot, or may have to soon: then no shadow request starts."""
    return bool(admission.waiting) or admission.in_flight * 2 >= admission.max_in_flight or not admission.is_ready
