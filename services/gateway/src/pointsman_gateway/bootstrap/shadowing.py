"""Sets up shadow requests. A shadow request is a copy of a user's request that another path answers, so that both
answers can be compared.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from pointsman_scoring import metric_from
from pointsman_scoring.judge import PAIR_CRITERIA, PAIR_INSTRUCTIONS
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.process import Schedule, running_periodically
from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.bootstrap.persistence import Persistence
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.model_checks import judge_rejects
from pointsman_gateway.config.tasks_file import ShadowConfig, ShadowJudgeConfig
from pointsman_gateway.domain import Path, Request
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import RequestLog
from pointsman_gateway.request_log.feedback_store import FeedbackStore
from pointsman_gateway.shadow.budget import SETTLE_INTERVAL_SECONDS, DailyBudget
from pointsman_gateway.shadow.judge import JudgeSettings, PairJudge, judge_sampling
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.shadow.runner import MAX_CONCURRENT, ShadowPipeline, ShadowRunner
from pointsman_gateway.shadow.scoring import PairScorer, ScoreFunction
from pointsman_gateway.shadow.stage import ScoringFeedback, Shadowing

MAX_CALM_REQUESTS = 128
"""A shadow request starts only if fewer requests than this number, and less than half of `max_in_flight`, are in
progress."""


@dataclass(slots=True)
class ActiveShadowSettings:
    """The settings of shadow requests (copies of requests for another path) in the active configuration, by task or
    path.
    """

    tasks: Mapping[str, ShadowConfig] = field(default_factory=dict)
    scores: Mapping[str, ScoreFunction] = field(default_factory=dict)
    """By task, the function that scores an answer against the right answer, which users send as feedback."""
    paths: Mapping[str, Path] = field(default_factory=dict)
    """All configured paths by name."""
    judges: Mapping[str, JudgeSettings] = field(default_factory=dict)

    def apply_config(self, config: Config) -> None:
        shadowed = {name: task for name, task in config.tasks.tasks.items() if task.shadow is not None}
        self.tasks = {name: task.shadow for name, task in shadowed.items() if task.shadow is not None}
        self.paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
        self.judges = {
            name: _judge_settings(shadow.judge, config) for name, shadow in self.tasks.items() if shadow.judge
        }
        self.scores = {
            name: metric_from(task.metric.model_dump(exclude_unset=True)).score
            for name, task in shadowed.items()
            if task.metric and task.metric.is_self_contained and config.tasks.request_log.store_messages
        }

    def is_allowed(self, request: Request, task: str, path: str) -> bool:
        """Returns whether the request's API key has the right to use the task `task` and the path `path`, so that a
        shadow request may be made. Raises KeyError if no path has this name.
        """
        return request.caller.scope.denial_reason(task, self.paths[path]) is None


def _judge_settings(judge: ShadowJudgeConfig, config: Config) -> JudgeSettings:
    rubric = config.prompts[judge.prompt].strip() if judge.prompt else ""
    sampling = judge_sampling(judge_rejects(config.models, config.paths, judge))
    return JudgeSettings(judge.model, (rubric or PAIR_CRITERIA) + PAIR_INSTRUCTIONS, judge.usd_per_day, sampling)


@dataclass(frozen=True, slots=True)
class ShadowWrappers:
    """The request log and the feedback store, wrapped so that another path can answer a copy of a request (a shadow
    request).

    The request log starts the shadow requests. With Redis, a right answer that the client sends as feedback is used to
    score both answers: the client's, and that of the shadow request.
    """

    request_log: RequestLog
    feedback: FeedbackStore


@asynccontextmanager
async def open_shadowing(
    persistence: Persistence,
    stages: Callable[[], Stages],
    settings: ActiveShadowSettings,
    admission: Admission,
    registry: CollectorRegistry,
) -> AsyncIterator[ShadowWrappers]:
    """A context manager that yields the request log and the feedback store, wrapped so that shadow requests are made.

    At the end of the block, shadow requests in progress are stopped, and with Redis their cost so far is stored.
    `stages` returns the stages of the active configuration.
    """
    metrics, store = ShadowMetrics(registry), persistence.shadows
    budget = DailyBudget(store)
    pipeline, is_busy = ShadowPipeline(stages, MAX_CONCURRENT + 1), lambda: _is_busy(admission)
    runner = ShadowRunner(pipeline, budget, is_busy, metrics)
    scoring = PairScorer(persistence.evidence, metrics, store, lambda: settings.scores)
    judge = PairJudge(pipeline, budget, is_busy, metrics, scoring.add_judgement)
    request_log = Shadowing(persistence.request_log, runner, settings, scoring, judge)
    if store is None or persistence.log_reader is None:
        try:
            yield ShadowWrappers(request_log, persistence.feedback)
        finally:
            await runner.stop()
            await judge.stop()
        return

    feedback = ScoringFeedback(persistence.feedback, store, scoring, persistence.log_reader, settings)

    async def settle() -> None:
        await budget.settle()
        await store.write(feedback.score_by_stored_feedback)

    schedule = Schedule(SETTLE_INTERVAL_SECONDS)
    with suppress(Unavailable):
        await settle()
    try:
        async with running_periodically(settle, schedule, "settle the budget of shadow requests"):
            yield ShadowWrappers(request_log, feedback)
    finally:
        await runner.stop()
        await judge.stop()
        with suppress(Unavailable):
            await settle()


def _is_busy(admission: Admission) -> bool:
    """Returns whether the gateway is too busy for shadow requests, since they could delay users' requests.

    It is if requests wait for a slot, if half of the slots or `MAX_CALM_REQUESTS` are in use, or if the gateway stops.
    """
    is_calm = admission.in_flight < MAX_CALM_REQUESTS and admission.in_flight * 2 < admission.max_in_flight
    return bool(admission.waiting) or not is_calm or not admission.is_ready
