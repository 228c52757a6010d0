"""Stores in Redis which path answered each conversation, for other gateways, and for this gateway after a restart.

Requests wait only for reads, and not while Redis is unavailable. Conversations are written in the background, in
batches.
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
"""Maximum number of conversations that wait to be written to Redis. If there are more, the one that has waited longest
is dropped."""
MAX_BATCH = 256
"""Maximum number of conversations that one call of Redis writes."""
PROBE_SECONDS = 1.0
"""Seconds between two attempts to reach Redis while it is unavailable."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(KeptPath).decode


class ConversationStore(Protocol):
    """Interface of the store of conversations that several gateways share.

    `RedisConversations` implements it with Redis, and `NoConversationStore` for a gateway without Redis.
    """

    @property
    def is_up(self) -> bool:
        """Returns whether the store can be read now; False if Redis did not answer the last call."""
        ...

    async def read(self, ids: Sequence[str]) -> tuple[str, KeptPath]:
        """Returns the first of `ids` under which a conversation is stored, and how the conversation's last request was
        answered.

        Returns ("", NOTHING_KEPT) if no conversation is stored under any of the ids. Raises Unavailable if Redis does
        not answer in time.
        """
        ...

    def write(self, id: str, kept: KeptPath) -> None:
        """Stores `kept`, which says how a conversation's last request was answered, under the conversation's `id`.

        The method returns at once and raises no error; the store is written in the background. `kept` may be lost while
        the store is unavailable.
        """
        ...


class NoConversationStore:
    """Implements `ConversationStore` for a gateway without Redis: stores nothing and finds nothing."""

    is_up = True

    async def read(self, ids: Sequence[str]) -> tuple[str, KeptPath]:
        return "", NOTHING_KEPT

    def write(self, id: str, kept: KeptPath) -> None:
        """Discards the conversation."""


class RedisConversations:
    """Stores conversations in Redis, where each expires `ttl_seconds` after its last request; implements
    `ConversationStore`.

    Conversations to write are queued in memory, and are sent to Redis only while the context manager `running` is
    entered.
    """

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
        """Context manager. While it is entered, a background task writes the queued conversations to Redis.

        On exit, it writes the conversations that are still queued, unless Redis does not answer.
        """
        schedule = Schedule(PROBE_SECONDS, wake=self._wake)
        async with running_periodically(self._write_or_probe, schedule, "write conversations"):
            yield
        if self.is_up:
            with suppress(Unavailable):
                await self._write()

    async def _write_or_probe(self) -> None:
        """Writes the conversations that wait; if there are none and Redis is down, checks whether it answers again."""
        if self._waiting:
            await self._write()
        elif not self.is_up:
            await self._call(lambda: self._redis.client.ping())

    async def _write(self) -> None:
        """Writes the conversations that wait, in batches. If Redis fails, raises Unavailable, and the rest waits on."""
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
    """Parses a stored conversation; returns None if `text` is None or has another format."""
    if text is None:
        return None
    try:
        kept: KeptPath = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return kept
