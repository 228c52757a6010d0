"""Opens what is kept in Redis and on disk: request log, feedback, evidence, cache, keys, limits, and the console."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module

from pointsman_scoring import metric_from
from pointsman_scoring.judge import PAIR_CRITERIA, PAIR_INSTRUCTIONS
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys.administration import Administration
from pointsman_servicekit.process import Schedule, running_periodically
from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.bootstrap.stages import to_path
from pointsman_gateway.cache.stage import AnswerWriter, CacheMetrics, CacheResources
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.config.access_file import SingleSignOnConfig
from pointsman_gateway.config.checks import SELF_CONTAINED_METRICS, judge_rejects
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.tasks_file import ShadowConfig, ShadowJudgeConfig
from pointsman_gateway.console.stage import Console
from pointsman_gateway.domain import Path, Request
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.pipeline.reload import ConfigReloader
from pointsman_gateway.ports import RequestLog
from pointsman_gateway.redaction import InvalidHook, Redaction, load_hook
from pointsman_gateway.request_log.evidence import EvidenceStore
from pointsman_gateway.request_log.feedback import FeedbackQueue, FeedbackService, NullFeedback
from pointsman_gateway.request_log.feedback_store import EvaluationStore, FeedbackStore
from pointsman_gateway.request_log.recorder import NullRequestLog, Recorder
from pointsman_gateway.request_log.store import RequestLogReader, RequestLogStore
from pointsman_gateway.request_log.tasks import OrphanRecovery, RequestLogTasks
from pointsman_gateway.request_log.wal import WriteAheadLog
from pointsman_gateway.request_log.wal_records import RequestLogMetrics
from pointsman_gateway.settings import Settings
from pointsman_gateway.shadow.budget import SETTLE_INTERVAL_SECONDS, DailyBudget, ShadowStore
from pointsman_gateway.shadow.judge import JudgeSettings, PairJudge, judge_sampling
from pointsman_gateway.shadow.runner import MAX_CONCURRENT, ShadowPipeline, ShadowRunner
from pointsman_gateway.shadow.scoring import PairScorer, ScoreFunction, ShadowMetrics
from pointsman_gateway.shadow.stage import ScoringFeedback, Shadowing
from pointsman_gateway.tenancy.keys import KeyCacheConfig
from pointsman_gateway.tenancy.limits import TenancyMetrics
from pointsman_gateway.tenancy.stage import OpenAccess, RedisTenancy
from pointsman_gateway.tenancy.tasks import POLL_TIMEOUT_SECONDS

MAX_CALM_REQUESTS = 128
"""Requests in progress up to which shadow requests start, if these are fewer than half of the slots."""
CONSOLE_REDIS_TIMEOUT_SECONDS = 2.0
"""For one call. A person waits for it, no request does."""


class RedisState:
    """Knows whether all connections to one Redis are up."""

    def __init__(self, report: Callable[[bool], None] = lambda up: None) -> None:
        """Takes `report`, which is called at each change of a connection."""
        self._report = report
        self._down: set[str] = set()

    def set_up(self, connection: str, up: bool) -> None:
        (self._down.discard if up else self._down.add)(connection)
        self._report(not self._down)


@dataclass(frozen=True, slots=True)
class Persistence:
    """The stores in Redis and on disk that all configurations share."""

    evidence: EvidenceStore
    request_log: NullRequestLog | Recorder
    feedback: NullFeedback | FeedbackService
    shadows: ShadowStore | None = None
    """None without Redis; so is `log_reader`."""
    log_reader: RequestLogReader | None = None
    redis_state: RedisState = field(default_factory=RedisState)

    @property
    def evaluations(self) -> EvaluationStore:
        return self.request_log.store if isinstance(self.request_log, Recorder) else NullFeedback()

    def apply_config(self, config: Config, version_of: Callable[[Path], str]) -> None:
        """Takes over a new configuration's retention and tasks; `version_of` returns a path's adapter version."""
        self.evidence.window = config.tasks.request_log.lookback_days
        self.evidence.versions = version_of
        if isinstance(self.request_log, Recorder):
            self.request_log.store.config = config.tasks.request_log
            self.request_log.store.learning = config.tasks.learning
        if isinstance(self.feedback, FeedbackService):
            self.feedback.tasks = tuple(config.tasks.tasks)


def open_redaction(hook: str, registry: CollectorRegistry) -> Redaction:
    """Loads `hook`, the `module:attribute` of a function that removes personal data from texts before they are stored.

    Raises ConfigError if it cannot be loaded.
    """
    failures = Counter(
        "pointsman_redaction_failures", "Texts not stored because the redaction hook failed.", registry=registry
    )
    try:
        return Redaction(load_hook(hook), failures.inc)
    except InvalidHook as error:
        raise ConfigError(f"POINTSMAN_GATEWAY_REDACTION: {error}") from error


@asynccontextmanager
async def open_persistence(
    settings: Settings, config: Config, registry: CollectorRegistry, redaction: Redaction
) -> AsyncIterator[Persistence]:
    """Opens the stores; raises ConfigError if the Redis URL is invalid, OSError if the log cannot be written."""
    evidence = EvidenceStore(config.tasks.request_log.lookback_days)
    if not settings.redis_url:
        yield Persistence(evidence, NullRequestLog(evidence), NullFeedback())
        return
    metrics = RequestLogMetrics(registry)
    async with AsyncExitStack() as stack:
        state = RedisState(metrics.set_redis_up)
        redis = await _connect(stack, settings.redis_url, "REDIS_URL", partial(state.set_up, "request log"))
        store = RequestLogStore(redis, config.tasks.request_log)
        wal = WriteAheadLog(settings.wal_dir, store.writer, metrics)
        stack.callback(wal.close)
        queue = FeedbackQueue(wal.feedback, metrics.feedback_bytes.set)
        recorder = Recorder(store, evidence, metrics, wal, redaction)
        await stack.enter_async_context(OrphanRecovery(store, queue, settings.wal_dir, metrics).running())
        await stack.enter_async_context(RequestLogTasks(store, recorder, evidence, queue, metrics).running())
        feedback = FeedbackService(store, recorder, queue, metrics, redaction)
        reader, shadows = RequestLogReader(redis), ShadowStore(redis, redaction)
        yield Persistence(evidence, recorder, feedback, shadows, reader, state)


@asynccontextmanager
async def open_cache(
    settings: Settings, registry: CollectorRegistry, redaction: Redaction
) -> AsyncIterator[CacheResources | None]:
    """Opens the response cache; None without Redis. Raises ConfigError if the Redis URL is invalid."""
    url = settings.cache_redis_url or settings.redis_url
    if not url:
        yield None
        return
    metrics = CacheMetrics(registry)
    async with AsyncExitStack() as stack:
        redis = await _connect(stack, url, "CACHE_REDIS_URL", metrics.set_redis_up)
        store = CacheStore(redis, settings.cache_megabytes * 1024 * 1024)
        writer = await stack.enter_async_context(AnswerWriter(store, metrics, redaction.leaves))
        yield CacheResources(store, writer, metrics)


@asynccontextmanager
async def open_tenancy(
    settings: Settings, registry: CollectorRegistry, state: RedisState
) -> AsyncIterator[OpenAccess | RedisTenancy]:
    """Opens keys and limits, or open access if authentication is off; raises ConfigError if it is on without Redis."""
    async with AsyncExitStack() as stack:
        tenancy: OpenAccess | RedisTenancy = OpenAccess()
        if settings.auth == "on":
            if not settings.redis_url:
                raise ConfigError("POINTSMAN_GATEWAY_AUTH is on, and keys are kept in Redis: set its _REDIS_URL too")
            metrics = TenancyMetrics(registry)
            redis = await _connect(stack, settings.redis_url, "REDIS_URL", partial(state.set_up, "keys"))
            watching = open_redis(settings.redis_url, partial(state.set_up, "changed keys"), POLL_TIMEOUT_SECONDS, 0.0)
            keys = KeyCacheConfig(ttl_s=settings.key_cache_ttl)
            tenancy = RedisTenancy(redis, metrics, keys, watching=await stack.enter_async_context(watching))
        await stack.enter_async_context(tenancy.running())
        yield tenancy


def check_single_sign_on(config: SingleSignOnConfig | None) -> str:
    """Imports the libraries, and returns the client secret of the console's login; empty without one.

    Raises ConfigError.
    """
    if config is None:
        return ""
    try:
        import_module("pointsman_gateway.tenancy.tokens")  # with PyJWT, cryptography and httpx: 0.2 s
    except ImportError as error:
        raise ConfigError(
            f"access.yaml: single_sign_on needs packages: pip install 'pointsman-gateway[sso]' ({error})"
        ) from error
    name = config.login.client_secret_env if config.login else ""
    if name and not os.environ.get(name):
        raise ConfigError(f"access.yaml: single_sign_on.login.client_secret_env: the variable {name} is not set")
    return os.environ[name] if name else ""


@asynccontextmanager
async def open_console(
    settings: Settings, reloader: ConfigReloader, persistence: Persistence
) -> AsyncIterator[tuple[Console, Administration | None]]:
    """Opens the console's view, and the administration of keys if there is Redis.

    Both use a Redis connection of their own, so that a slow read does not count as an outage for requests.
    """
    hosts = tuple(name.strip().lower() for name in settings.console_hosts.split(",") if name.strip())
    async with AsyncExitStack() as stack:
        reader = administration = None
        if settings.redis_url:
            opening = open_redis(settings.redis_url, lambda up: None, CONSOLE_REDIS_TIMEOUT_SECONDS)
            redis = await stack.enter_async_context(opening)
            reader, administration = RequestLogReader(redis), Administration(redis)
        console = Console(lambda: reloader.current, persistence.evidence, reader, settings.auth == "on", hosts)
        yield console, administration


async def _connect(stack: AsyncExitStack, url: str, setting: str, set_up: Callable[[bool], None]) -> BoundedRedis:
    """Opens Redis until the stack is closed; `set_up` records whether it is reachable. Raises ConfigError."""
    try:
        return await stack.enter_async_context(open_redis(url, set_up))
    except ValueError as error:
        raise ConfigError(f"POINTSMAN_GATEWAY_{setting} is no address of Redis: {error}") from error


@dataclass(slots=True)
class ActiveShadowSettings:
    """The settings of shadow requests by task, as the active configuration has them."""

    tasks: Mapping[str, ShadowConfig] = field(default_factory=dict)
    scores: Mapping[str, ScoreFunction] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
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
            if task.metric and task.metric.name in SELF_CONTAINED_METRICS and config.tasks.request_log.store_messages
        }

    def is_allowed(self, request: Request, task: str, path: str) -> bool:
        """Returns whether the request's caller may use the task and the path."""
        return request.caller.scope.denial_reason(task, self.paths[path]) is None


def _judge_settings(judge: ShadowJudgeConfig, config: Config) -> JudgeSettings:
    rubric = config.prompts[judge.prompt].strip() if judge.prompt else ""
    sampling = judge_sampling(judge_rejects(config.models, config.paths, judge))
    return JudgeSettings(judge.model, (rubric or PAIR_CRITERIA) + PAIR_INSTRUCTIONS, judge.usd_per_day, sampling)


@dataclass(frozen=True, slots=True)
class ShadowWrappers:
    """The request log and the feedback service, wrapped so that they start and score shadow requests."""

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
    """Opens shadowing during the block; then shadow requests in progress are stopped, and their cost is stored."""
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
    """Returns whether requests wait for a slot, or may have to soon: then no shadow request starts."""
    is_calm = admission.in_flight < MAX_CALM_REQUESTS and admission.in_flight * 2 < admission.max_in_flight
    return bool(admission.waiting) or not is_calm or not admission.is_ready
