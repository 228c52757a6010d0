"""Redis that answers within 50 ms, or counts as dead: a deadline for each call, and a breaker before all of them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pointsman_servicekit.errors import Unavailable

log = logging.getLogger(__name__)

CALL_TIMEOUT = 0.05
"""Seconds a call: a slow Redis is treated as a dead one."""

MAX_LATE_LOOKS = 6
"""Turns of the event loop after the deadline in which an answer may still be found to have come: as many as redis-py
takes for one. Where the loop has nothing else to do they are over at once."""
MAX_LATE_LOOK_SECONDS = 0.12
"""Seconds that they may take, in all tries of a call together."""

MAX_ATTEMPTS = 3
"""While Redis is up: on a busy machine one can miss the deadline by chance."""

MAX_CALL_SECONDS = MAX_ATTEMPTS * CALL_TIMEOUT + MAX_LATE_LOOK_SECONDS
"""Seconds, and at most one more turn of the loop for each try."""

COOLDOWN = 1.0
"""Seconds after a failure in which nobody asks; then one call is let through, to see."""

MAX_CONCURRENT_CALLS = 8
"""Calls, each on a connection of its own."""

Answer = TypeVar("Answer")


class BoundedRedis:
    """Every call may be made twice without harm, and may still arrive after it was given up; its user sees to that."""

    def __init__(self, redis: Redis, tell: Callable[[bool], None], deadline: float = CALL_TIMEOUT) -> None:
        """`redis` must decode answers. `tell` hears of each change between up and down."""
        self.client: Any = redis  # its types say neither what is decoded nor what is awaited
        self._deadline = deadline
        self._tell = tell
        self._places = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._up = True
        self._probing = False
        self._resting_until = 0.0

    async def call(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Raises Unavailable ("redis_unavailable"): at once while Redis rests, else after its deadlines."""
        async with self._places:
            return await self._call(call)

    async def _call(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        if self._up:
            return await self._try(call, MAX_ATTEMPTS, MAX_LATE_LOOK_SECONDS)
        if self._probing or asyncio.get_running_loop().time() < self._resting_until:
            raise _unavailable("it did not a moment ago")
        self._probing = True
        try:
            return await self._try(call, 1, MAX_LATE_LOOK_SECONDS)
        finally:
            self._probing = False

    async def _try(self, call: Callable[[], Awaitable[Answer]], tries: int, look: float) -> Answer:
        """`look`: seconds that may be spent on answers which are found late."""
        due = asyncio.get_running_loop().time() + self._deadline
        try:
            answer = await self._by(due, due + look, call)
        except TimeoutError as error:
            if tries > 1:
                late = asyncio.get_running_loop().time() - due
                return await self._try(call, tries - 1, look - late)
            why = f"nothing within {self._deadline * 1000:.0f} ms"
            self._failed(why)
            raise _unavailable(why) from error
        except (RedisError, OSError) as error:
            self._failed(str(error))
            raise _unavailable(str(error)) from error
        self._answered()
        return answer

    def _answered(self) -> None:
        if not self._up:
            log.info("Redis answers again")
            self._up = True
            self._tell(True)

    def _failed(self, why: str) -> None:
        self._resting_until = asyncio.get_running_loop().time() + COOLDOWN
        if self._up:
            log.warning("Redis does not answer: %s", why)
            self._up = False
            self._tell(False)

    async def _by(self, due: float, latest: float, call: Callable[[], Awaitable[Answer]]) -> Answer:
        cancellations = pending_cancellations()
        async with _listening(due, latest):
            answer = await call()
        if pending_cancellations() > cancellations:
            raise asyncio.CancelledError
        return answer


@asynccontextmanager
async def _listening(due: float, latest: float) -> AsyncIterator[None]:
    """As `asyncio.timeout_at(due)`, but that a busy loop, which looks too rarely, gives no call up whose answer is
    there. By `latest` it gives up."""
    async with asyncio.timeout(None) as limit:
        ear = _Ear(limit, due, latest)
        try:
            yield
        finally:
            ear.timer.cancel()


class _Ear:
    def __init__(self, limit: asyncio.Timeout, due: float, latest: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._left = MAX_LATE_LOOKS
        self._latest = latest
        self.timer: asyncio.Handle = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if self._left and now < self._latest:
            self._left -= 1
            self.timer = self._loop.call_soon(self._look)
        else:
            self._limit.reschedule(now)


def pending_cancellations() -> int:
    """Of the task that asks: more than before a call of redis-py's mean that the call has lost one.

    Python 3.11's wait_for, by which redis-py waits, loses a cancellation that comes together with what it waits for.
    """
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _unavailable(why: str) -> Unavailable:
    return Unavailable(f"Redis does not answer: {why}", code="redis_unavailable", retry_after=COOLDOWN)


@asynccontextmanager
async def open_redis(
    url: str, tell: Callable[[bool], None], deadline: float = CALL_TIMEOUT
) -> AsyncIterator[BoundedRedis]:
    # No second try inside the client: each call has its deadline here.
    async with Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0)) as client:
        yield BoundedRedis(client, tell, deadline)
