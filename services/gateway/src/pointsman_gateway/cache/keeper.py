"""Keeps answers after they were given, so that nobody waits for it."""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.cache.asked import Asked
from pointsman_gateway.cache.metrics import CacheMetrics
from pointsman_gateway.cache.recording import Whole
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.domain import Vector

log = logging.getLogger(__name__)

MOST = 64
"""Answers that are being kept at once; more are let go."""

PATIENCE = 1.0
"""Seconds that those get when the gateway stops."""

Storable = Callable[[str], bool]


class Keeper:
    """Its block's end waits for what is under way."""

    def __init__(self, store: CacheStore, metrics: CacheMetrics, storable: Storable = lambda text: True) -> None:
        """`storable` says whether an answer's text may be stored as it is."""
        self._store = store
        self._metrics = metrics
        self._storable = storable
        self._keeping: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        return len(self._keeping)

    def keep(self, asked: Asked, whole: Whole, ttl_seconds: int, vector: Vector | None) -> None:
        if len(self._keeping) >= MOST:
            self._metrics.answers.labels(asked.path, "busy").inc()
            return
        task = asyncio.create_task(self._keep(asked, whole, ttl_seconds, vector), name="keep an answer")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, asked: Asked, whole: Whole, ttl_seconds: int, vector: Vector | None) -> None:
        try:
            if self._storable(whole.text):
                await self._store.keep(asked, whole.written, ttl_seconds, vector)
                outcome = "kept"
            else:
                outcome = "unfit"
        except Unavailable:
            outcome = "away"
        except Exception:
            log.exception("an answer on path %s cannot be kept", asked.path)
            outcome = "unfit"
        self._metrics.answers.labels(asked.path, outcome).inc()

    async def __aenter__(self) -> "Keeper":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeping:
            _, late = await asyncio.wait(self._keeping, timeout=PATIENCE)
            for task in late:
                task.cancel()
