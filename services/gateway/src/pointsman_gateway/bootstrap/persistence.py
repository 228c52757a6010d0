"""Opens the stores in Redis and on disk: request log, write-ahead log, feedback, and statistics of paths."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.bootstrap.redis import RedisState, connect
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import Path
from pointsman_gateway.redaction import InvalidHook, Redaction, load_hook
from pointsman_gateway.request_log.evidence import EvidenceStore
from pointsman_gateway.request_log.export_log import NO_EXPORT, ExportLog, ExportSink, export_dir
from pointsman_gateway.request_log.exported_records import ExportedEvaluations
from pointsman_gateway.request_log.feedback import FeedbackQueue, FeedbackService, NullFeedback
from pointsman_gateway.request_log.feedback_store import EvaluationStore
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import NullRequestLog, Recorder
from pointsman_gateway.request_log.store import RequestLogReader, RequestLogStore
from pointsman_gateway.request_log.tasks import OrphanRecovery, RequestLogTasks, maintaining
from pointsman_gateway.request_log.wal import WriteAheadLog
from pointsman_gateway.settings import Settings
from pointsman_gateway.shadow.budget import ShadowStore


@dataclass(frozen=True, slots=True)
class Persistence:
    """The stores of receipts, feedback, shadow answers and statistics of paths; they stay open across reloads."""

    evidence: EvidenceStore
    request_log: NullRequestLog | Recorder
    feedback: NullFeedback | FeedbackService
    shadows: ShadowStore | None = None
    """The store of shadow requests (copies of requests that another path answers); None without Redis, like
    `log_reader`."""
    log_reader: RequestLogReader | None = None
    redis_state: RedisState = field(default_factory=RedisState)
    export: ExportSink = NO_EXPORT

    @property
    def evaluations(self) -> EvaluationStore:
        if isinstance(self.request_log, Recorder):
            return ExportedEvaluations(self.request_log.store, self.export)
        return NullFeedback()

    def apply_config(self, config: Config, version_of: Callable[[Path], str]) -> None:
        """Makes the stores use the settings and task names of a new configuration.

        `version_of` returns the present adapter version of a path, or an empty text for a path without an adapter.
        """
        self.evidence.window = config.tasks.request_log.lookback_days
        self.evidence.versions = version_of
        if isinstance(self.request_log, Recorder):
            self.request_log.store.config = config.tasks.request_log
            self.request_log.store.learning = config.tasks.learning
        if isinstance(self.feedback, FeedbackService):
            self.feedback.tasks = tuple(config.tasks.tasks)


def open_redaction(hook: str, registry: CollectorRegistry) -> Redaction:
    """Imports the redaction hook, an operator's function that removes personal data from texts, and adds a metric that
    counts its failures.

    `hook` is the function's name as "module:function"; if it is empty, texts stay unchanged. Raises ConfigError if
    `hook` has another form, cannot be imported or is no function.
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
    """A context manager that opens the stores and closes them after the block.

    Without Redis, the statistics of paths are only in this process, and neither receipts nor feedback are stored.
    Raises ConfigError if the Redis URL is invalid, or missing although records are exported; OSError if the write-ahead
    log or the export log cannot be created.
    """
    evidence = EvidenceStore(config.tasks.request_log.lookback_days)
    if settings.export_max_bytes and not settings.redis_url:
        raise ConfigError(
            "POINTSMAN_GATEWAY_EXPORT_MAX_BYTES is set without POINTSMAN_GATEWAY_REDIS_URL: set that, too"
        )
    if not settings.redis_url:
        yield Persistence(evidence, NullRequestLog(evidence), NullFeedback())
        return
    metrics = RequestLogMetrics(registry)
    async with AsyncExitStack() as stack:
        state = RedisState(metrics.set_redis_up)
        redis = await connect(stack, settings.redis_url, "REDIS_URL", partial(state.set_up, "request log"))
        store = RequestLogStore(redis, config.tasks.request_log)
        wal = WriteAheadLog(settings.wal_dir, store.writer, metrics)
        stack.callback(wal.close)
        export: ExportSink = NO_EXPORT
        if settings.export_max_bytes:
            export_log = ExportLog(export_dir(settings.wal_dir), store.writer, metrics, settings.export_max_bytes)
            await stack.enter_async_context(maintaining(export_log))
            export = export_log
        queue = FeedbackQueue(wal.feedback, metrics.feedback_bytes.set)
        recorder = Recorder(store, evidence, metrics, wal, redaction, export)
        recovery = OrphanRecovery(store, queue, settings.wal_dir, metrics, export)
        await stack.enter_async_context(recovery.running())
        await stack.enter_async_context(RequestLogTasks(store, recorder, evidence, queue, metrics).running())
        feedback = FeedbackService(store, recorder, queue, metrics, redaction, export)
        reader, shadows = RequestLogReader(redis), ShadowStore(redis, redaction, export)
        yield Persistence(evidence, recorder, feedback, shadows, reader, state, export)
