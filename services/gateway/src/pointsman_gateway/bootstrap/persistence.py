"""Builds the redaction of what is kept."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pointsman_servicekit.bounded_redis import open_redis
from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.cache.keys import CacheKeyBuilder
from pointsman_gateway.cache.stage import AnswerWriter, CacheMetrics, CacheResources, CachingBackend, Embed
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.console.stage import Console
from pointsman_gateway.domain import Path
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.pipeline.config_reload import Generations
from pointsman_gateway.pipeline.ports import Backend
from pointsman_gateway.redaction import BadHook, Redaction, load_hook
from pointsman_gateway.request_log.evidence import EvidenceStore
from pointsman_gateway.request_log.feedback import FeedbackQueue, FeedbackService, NullFeedback
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import NullRequestLog, Recorder
from pointsman_gateway.request_log.store import RequestLogReader, RequestLogStore
from pointsman_gateway.request_log.tasks import BackgroundTasks, OrphanRecovery
from pointsman_gateway.request_log.wal import WriteAheadLog
from pointsman_gateway.settings import Settings
from pointsman_gateway.shadow.budget import ShadowStore
from pointsman_gateway.tenancy.keys import KeyCacheConfig
from pointsman_gateway.tenancy.limits import TenancyMetrics
from pointsman_gateway.tenancy.stage import OpenAccess, Tenancy


def to_redaction(name: str, registry: CollectorRegistry) -> Redaction:
    """From the setting. Raises ConfigError."""
    failures = Counter(
        "pointsman_redaction_failures", "Texts that were not kept since the redaction hook failed.", registry=registry
    )
    try:
        return Redaction(load_hook(name), failures.inc)
    except BadHook as error:
        raise ConfigError(f"POINTSMAN_GATEWAY_REDACTION: {error}") from error


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


@asynccontextmanager
async def keeping_answers(
    settings: Settings, registry: CollectorRegistry, redaction: Redaction, embedding: str
) -> AsyncIterator[CacheResources | None]:
    """None where there is no Redis; `embedding` names the encoder. Raises ConfigError where its address is none."""
    url = settings.cache_redis_url or settings.redis_url
    if not url:
        yield None
        return
    metrics = CacheMetrics(registry)
    async with AsyncExitStack() as stack:
        try:
            redis = await stack.enter_async_context(open_redis(url, metrics.set_redis_up))
        except ValueError as error:
            raise ConfigError(f"POINTSMAN_GATEWAY_CACHE_REDIS_URL is no address of Redis: {error}") from error
        store = CacheStore(redis, settings.cache_megabytes * 1024 * 1024)
        keeper = await stack.enter_async_context(AnswerWriter(store, metrics, redaction.leaves))
        yield CacheResources(store, keeper, metrics, embedding)


def cached(
    inner: Backend,
    cache: CacheResources | None,
    config: Config,
    paths: Mapping[str, Path],
    engines: Engines,
    embed: Embed | None,
) -> Backend:
    """`inner` itself where no path caches. Raises ConfigError where one does, and there is no Redis."""
    rules = {name: path.cache for name, path in config.paths.paths.items() if path.cache and path.cache.exact}
    if not rules:
        return inner
    if cache is None:
        first = next(iter(rules))
        raise ConfigError(f"paths.yaml: path '{first}' caches, and there is no Redis; set POINTSMAN_GATEWAY_REDIS_URL")
    asking = {name: CacheKeyBuilder(paths[name], rule, cache.embedding) for name, rule in rules.items()}
    return CachingBackend(inner, cache, asking, engines.version_of, embed)


@asynccontextmanager
async def knowing_callers(settings: Settings, registry: CollectorRegistry) -> AsyncIterator[OpenAccess | Tenancy]:
    """Raises ConfigError where keys are on and there is no Redis to keep them in."""
    async with AsyncExitStack() as stack:
        tenancy: OpenAccess | Tenancy = OpenAccess()
        if settings.auth == "on":
            if not settings.redis_url:
                raise ConfigError("POINTSMAN_GATEWAY_AUTH is on, and keys are kept in Redis: set its _REDIS_URL too")
            metrics = TenancyMetrics(registry)
            try:
                redis = await stack.enter_async_context(open_redis(settings.redis_url, lambda up: None))
            except ValueError as error:
                raise ConfigError(f"POINTSMAN_GATEWAY_REDIS_URL is no address of Redis: {error}") from error
            tenancy = Tenancy(redis, metrics, KeyCacheConfig(ttl_s=settings.key_cache_ttl))
        await stack.enter_async_context(tenancy.running())
        yield tenancy


PATIENCE = 2.0
"""Seconds a call: a person waits, no request does."""


@asynccontextmanager
async def overseeing(settings: Settings, generations: Generations, memory: Memory) -> AsyncIterator[Console]:
    hosts = tuple(name.strip().lower() for name in settings.console_hosts.split(",") if name.strip())
    async with AsyncExitStack() as stack:
        reader = None
        if settings.redis_url:
            redis = await stack.enter_async_context(open_redis(settings.redis_url, lambda up: None, PATIENCE))
            reader = RequestLogReader(redis)
        yield Console(lambda: generations.current, memory.board, reader, settings.auth == "on", hosts)
