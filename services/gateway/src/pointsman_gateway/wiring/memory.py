"""Builds what the gateway remembers: the journal, what takes feedback, and the board of evidence."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pointsman_servicekit.prompt_redis import open_redis
from prometheus_client import CollectorRegistry

from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.domain import Path
from pointsman_gateway.journal.counterfoil_book import CounterfoilBook
from pointsman_gateway.journal.evidence import EvidenceBoard
from pointsman_gateway.journal.feedback import FeedbackBox
from pointsman_gateway.journal.metrics import JournalMetrics
from pointsman_gateway.journal.recorder import Recorder
from pointsman_gateway.journal.recovery import Recovery
from pointsman_gateway.journal.silent import NoFeedback, NoJournal
from pointsman_gateway.journal.spool import Spool
from pointsman_gateway.journal.store import JournalStore
from pointsman_gateway.journal.upkeep import Upkeep
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.settings import Settings
from pointsman_gateway.shadow.store import ShadowStore


@dataclass(frozen=True, slots=True)
class Memory:
    """What stays while generations come and go."""

    board: EvidenceBoard
    journal: NoJournal | Recorder
    feedback: NoFeedback | FeedbackBox
    shadows: ShadowStore | None = None
    """None where there is no Redis."""

    def obey(self, config: Config, versions: Callable[[Path], str]) -> None:
        """Takes from a new generation how much to keep, which tasks there are, and who knows the adapters' versions."""
        self.board.window = config.tasks.journal.evidence_days
        self.board.versions = versions
        if isinstance(self.journal, Recorder):
            self.journal.store.config = config.tasks.journal
            self.journal.store.learning = config.tasks.learning
        if isinstance(self.feedback, FeedbackBox):
            self.feedback.tasks = tuple(config.tasks.tasks)


@asynccontextmanager
async def remembering(
    settings: Settings, config: Config, registry: CollectorRegistry, redaction: Redaction
) -> AsyncIterator[Memory]:
    """Raises ConfigError where the address of Redis is none, OSError where the spool cannot be written."""
    board = EvidenceBoard(config.tasks.journal.evidence_days)
    if not settings.redis_url:
        yield Memory(board, NoJournal(board), NoFeedback())
        return
    metrics = JournalMetrics(registry)
    async with AsyncExitStack() as stack:
        try:
            redis = await stack.enter_async_context(open_redis(settings.redis_url, metrics.redis_is))
        except ValueError as error:
            raise ConfigError(f"POINTSMAN_GATEWAY_REDIS_URL is no address of Redis: {error}") from error
        spool = Spool(settings.spool, metrics.spool_bytes.set)
        stack.callback(spool.close)
        store = JournalStore(redis, config.tasks.journal)
        book = CounterfoilBook(settings.spool, store.writer, metrics)
        stack.callback(book.close)
        recorder = Recorder(store, board, metrics, book, redaction)
        await stack.enter_async_context(Recovery(store, settings.spool, metrics).running())
        await stack.enter_async_context(Upkeep(store, recorder, board, spool, metrics).running())
        box = FeedbackBox(store, recorder, spool, metrics, redaction)
        yield Memory(board, recorder, box, ShadowStore(redis, redaction))
