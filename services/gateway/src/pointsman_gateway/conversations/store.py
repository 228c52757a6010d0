"""Conversations in Redis, so that all gateways know them, and so does one that has restarted.

Requests only read, and not while Redis is unavailable. What they write goes to Redis in the background, many at once.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import msgspec
from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.domain.conversation import NOTHING_KEPT, KeptPath

log = logging.getLogger(__name__)

PREFIX = "pointsman:conversation:"
MAX_WAITING = 10_000
"""Conversations that wait to be written while Redis is unavailable; of more, the ones that wait longest are dropped."""
MAX_BATCH = 256
PROBE_SECONDS = 1.0
"""Interval of attempts while Redis is unavailable."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(KeptPath).decode


class ConversationStore(Protocol):
    """Shares conversations with other gateways."""

    @property
    def is_up(self) -> bool:
        """Returns whether `read` may be called; False if Redis did not answer the last call."""
        ...

    async def read(self, ids: Sequence[str]) -> tuple[str, KeptPath]:
        """Returns the first of the ids that is stored, and its conversation; ("", NOTHING_KEPT) if none is.

        Raises Unavailable.
        """
        ...

    def write(self, id: str, kept: KeptPath) -> None:
        """Stores a conversation in the background; does not raise."""
        ...


class NoConversationStore:
    """Shares nothing, since there is no Redis; implements `ConversationStore`."""

    is_up = True

    async def read(self, ids: Sequence[str]) -> tuple[str, KeptPath]:
        return "", NOTHING_KEPT

    def write(self, id: str, kept: KeptPath) -> None:
        """Does nothing."""


class RedisConversations:
    """Keeps each conversation under a key that expires; implements `ConversationStore`."""

    def __init__(self, redis: BoundedRedis, ttl_seconds: float) -> None:
        self._redis = redis
        self._ttl_ms = max(1, round(ttl_seconds * 1000))
        self._waiting: OrderedDict[str, KeptPath] = OrderedDict()
        self._wake = asyncio.Event()
        self.is_up = True

    async def read(self, ids: Sequence[str]) -> tuple[str, KeptPath]:
        found = await self._call(lambda: self._read_all(ids))
        for id, text in zip(ids, found, strict=True):
            kept = _parse(text)
            if kept is not None:
                return id, kept
        return "", NOTHING_KEPT

    def write(self, id: str, kept: KeptPath) -> None:
        self._waiting[id] = kept
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        if self.is_up:
            self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes during the block, and what is left at its end."""
        schedule = Schedule(PROBE_SECONDS, wake=self._wake)
        async with running_periodically(self._write_or_probe, schedule, "write conversations"):
            yield
        if self.is_up:
            with suppress(Unavailable):
                await self._write()

    async def _write_or_probe(self) -> None:
        """Writes what waits; while Redis is unavailable, also finds out whether it answers again."""
        if self._waiting:
            await self._write()
        elif not self.is_up:
            await self._call(lambda: self._redis.client.ping())

    async def _write(self) -> None:
        """Writes in batches; raises Unavailable, and then keeps what is not written."""
        while self._waiting:
            batch = [(id, self._waiting[id]) for id, _ in zip(self._waiting, range(MAX_BATCH), strict=False)]
            await self._call(lambda batch=batch: self._write_batch(batch))
            for id, kept in batch:
                if self._waiting.get(id) is kept:
                    del self._waiting[id]

    async def _call(self, call: Any) -> Any:
        try:
            answer = await self._redis.call(call)
        except Unavailable:
            self.is_up = False
            raise
        self.is_up = True
        return answer

    def _read_all(self, ids: Sequence[str]) -> Awaitable[Any]:
        pipeline = self._redis.client.pipeline(transaction=False)
        for id in ids:
            pipeline.get(PREFIX + id)
        running: Awaitable[Any] = pipeline.execute()
        return running

    def _write_batch(self, batch: Sequence[tuple[str, KeptPath]]) -> Awaitable[Any]:
        pipeline = self._redis.client.pipeline(transaction=False)
        for id, kept in batch:
            pipeline.set(PREFIX + id, _encode(kept), px=self._ttl_ms)
        running: Awaitable[Any] = pipeline.execute()
        return running


def _parse(text: str | bytes | None) -> KeptPath | None:
    """Parses a stored conversation; returns None if there is none, or it has another format."""
    if text is None:
        return None
    try:
        kept: KeptPath = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return kept
