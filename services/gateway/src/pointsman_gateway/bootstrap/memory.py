"""Builds what the gateway remembers: the journal, what takes feedback, and the board of evidence."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pointsman_servicekit.bounded_redis import open_redis
from prometheus_client import CollectorRegistry

from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.domain import Path
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log.evidence import EvidenceStore
from pointsman_gateway.request_log.feedback import FeedbackQueue, FeedbackService, NullFeedback
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import NullRequestLog, Recorder
from pointsman_gateway.request_log.store import RequestLogStore
from pointsman_gateway.request_log.tasks import BackgroundTasks, OrphanRecovery
from pointsman_gateway.request_log.wal import WriteAheadLog
from pointsman_gateway.settings import Settings
from pointsman_gateway.shadow.budget import ShadowStore


@dataclass(frozen=True, slots=True)
class Memory:
    """What stays while generations come and go."""

    board: EvidenceStore
    journal: NullRequestLog | Recorder
    feedback: NullFeedback | FeedbackService
    shadows: ShadowStore | None = None
    """None where there is no Redis."""

    def obey(self, config: Config, versions: Callable[[Path], str]) -> None:
        """Takes from a new generation how much to keep, which tasks there are, and who knows the adapters' versions."""
        self.board.window = config.tasks.request_log.lookback_days
        self.board.versions = versions
        if isinstance(self.journal, Recorder):
            self.journal.store.config = config.tasks.request_log
            self.journal.store.learning = config.tasks.learning
        if isinstance(self.feedback, FeedbackService):
            self.feedback.tasks = tuple(config.tasks.tasks)


@asynccontextmanager
async def remembering(
    settings: Settings, config: Config, registry: CollectorRegistry, redaction: Redaction
) -> AsyncIterator[Memory]:
    """Raises ConfigError if the address of Redis is invalid, OSError if the write-ahead log cannot be written."""
    board = EvidenceStore(config.tasks.request_log.lookback_days)
    if not settings.redis_url:
        yield Memory(board, NullRequestLog(board), NullFeedback())
        return
    metrics = RequestLogMetrics(registry)
    async with AsyncExitStack() as stack:
        try:
            redis = await stack.enter_async_context(open_redis(settings.redis_url, metrics.set_redis_up))
        except ValueError as error:
            raise ConfigError(f"POINTSMAN_GATEWAY_REDIS_URL is no address of Redis: {error}") from error
        store = RequestLogStore(redis, config.tasks.request_log)
        wal = WriteAheadLog(settings.wal_dir, store.writer, metrics)
        stack.callback(wal.close)
        queue = FeedbackQueue(wal.feedback, metrics.feedback_bytes.set)
        recorder = Recorder(store, board, metrics, wal, redaction)
        await stack.enter_async_context(OrphanRecovery(store, queue, settings.wal_dir, metrics).running())
        await stack.enter_async_context(BackgroundTasks(store, recorder, board, queue, metrics).running())
        box = FeedbackService(store, recorder, queue, metrics, redaction)
        yield Memory(board, recorder, box, ShadowStore(redis, redaction))
