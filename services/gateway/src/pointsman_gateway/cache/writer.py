"""Stores answers after they were sent, so that no client waits for it; and the cache's metrics."""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType

from pointsman_servicekit.errors import Unavailable
from prometheus_client import CollectorRegistry, Counter, Gauge

from pointsman_gateway.cache.keys import CacheKeys
from pointsman_gateway.cache.recording import CacheableAnswer
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.domain import Vector

log = logging.getLogger(__name__)


class CacheMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            "pointsman_cache_lookups",
            "Requests on paths that cache, by outcome: exact, semantic, miss, unfit, renewed or away.",
            ["path", "outcome"],
            registry=registry,
        )
        self.answers = Counter(
            "pointsman_cache_answers",
            "Complete answers on paths that cache, by outcome: kept, unfit, busy or away.",
            ["path", "outcome"],
            registry=registry,
        )
        self.redis_up = Gauge("pointsman_cache_redis_up", "1 if the cache's Redis answers in time.", registry=registry)
        self.redis_up.set(1)

    def set_redis_up(self, up: bool) -> None:
        self.redis_up.set(up)


MAX_CONCURRENT_WRITES = 64
"""Further answers are not stored."""

SHUTDOWN_TIMEOUT_S = 1.0
"""Time for writes in progress when the gateway stops."""

IsStorable = Callable[[str], bool]


class AnswerWriter:
    """Stores answers in the background. Leaving its context waits for writes in progress, up to a timeout."""

    def __init__(self, store: CacheStore, metrics: CacheMetrics, storable: IsStorable = lambda text: True) -> None:
        """`storable` decides whether an answer's text may be stored unchanged; redaction may forbid it."""
        self._store = store
        self._metrics = metrics
        self._storable = storable
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def in_progress(self) -> int:
        return len(self._writes)

    def write(self, keys: CacheKeys, answer: CacheableAnswer, ttl_seconds: int, vector: Vector | None) -> None:
        if len(self._writes) >= MAX_CONCURRENT_WRITES:
            self._metrics.answers.labels(keys.path, "busy").inc()
            return
        task = asyncio.create_task(self._write(keys, answer, ttl_seconds, vector), name="store an answer")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, keys: CacheKeys, answer: CacheableAnswer, ttl_seconds: int, vector: Vector | None) -> None:
        try:
            if self._storable(answer.text):
                await self._store.write(keys, answer.json, ttl_seconds, vector)
                outcome = "kept"
            else:
                outcome = "unfit"
        except Unavailable:
            outcome = "away"
        except Exception:
            log.exception("an answer on path %s cannot be stored", keys.path)
            outcome = "unfit"
        self._metrics.answers.labels(keys.path, outcome).inc()

    async def __aenter__(self) -> "AnswerWriter":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            _, late = await asyncio.wait(self._writes, timeout=SHUTDOWN_TIMEOUT_S)
            for task in late:
                task.cancel()
