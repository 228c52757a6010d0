"""A Redis client that limits the time of each call and has a circuit breaker; reads Lua scripts from packages."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from pointsman_servicekit.eager import in_task
from pointsman_servicekit.errors import FailedPrecondition, Unavailable

if TYPE_CHECKING:  # imported with the first client: without Redis a process does not need its 7 MB
    from pointsman_servicekit.redis_clients import RedisClient

log = logging.getLogger(__name__)

CALL_TIMEOUT_SECONDS = 0.05
"""Default time limit, in seconds, of one attempt of a call."""

MAX_LATE_LOOKS = 6
"""Iterations of the event loop for which a call waits after its time limit, to accept a result that has arrived.

redis-py needs this many iterations to deliver a result. On an idle loop they take no time.
"""
MAX_LATE_LOOK_SECONDS = 0.12
"""Seconds that the iterations of `MAX_LATE_LOOKS` may take, in all attempts of a call together."""

MAX_ATTEMPTS = 3
"""Attempts of a call that exceeds its time limit, as happens by chance on a busy machine. A call is not repeated after
an error.
"""

COOLDOWN = 1.0
"""Default seconds after a failed call in which further calls fail at once; then one call is sent as a probe."""

MAX_DISCOVERY_SECONDS = 2.0
"""Seconds in which `BoundedRedis.find_primaries` must find the current primaries."""

MAX_CONCURRENT_CALLS = 8
"""Number of calls that run at the same time, each on its own connection; further calls wait."""

ABOUT_A_VALUE = ("WRONGTYPE ", "user_script:")
"""The first words of Redis errors that concern one stored value, because it has an unexpected type or form.

After such an error Redis is still considered available: no cooldown starts, and other calls are made as usual.
"""

Answer = TypeVar("Answer")


class BoundedRedis:
    """Calls Redis with a time limit, and fails at once while Redis does not answer (a circuit breaker).

    Calls must be idempotent: a call may be repeated, and may take effect in Redis although it was reported as failed.
    """

    def __init__(
        self,
        redis: "RedisClient",
        tell: Callable[[bool], None],
        deadline: float = CALL_TIMEOUT_SECONDS,
        cooldown: float = COOLDOWN,
    ) -> None:
        """Wraps the Redis client `redis`.

        `tell(False)` is called when Redis stops answering, and `tell(True)` when it answers again. An attempt of a call
        is given up after `deadline` seconds without an answer, and repeated. After a failed call, further calls fail
        for `cooldown` seconds without being sent.
        """
        self.client: Any = redis.client
        self.errors = redis.errors
        """The classes of the errors that the client raises if Redis is unavailable."""
        self._rediscover = redis.rediscover
        self._discovery: asyncio.Task[None] | None = None
        self._deadline, self._cooldown = deadline, cooldown
        self._tell = tell
        self._places = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._up = True
        self._probing = False
        self._resting_until = 0.0

    async def call(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Calls the function `call`, which uses `client`, and returns its result.

        First waits, without a time limit, while `MAX_CONCURRENT_CALLS` other calls run. An attempt that takes too long
        is repeated, up to `MAX_ATTEMPTS` attempts.

        Raises Unavailable ("redis_unavailable") if Redis reports an error or no attempt ends in time. After a failed
        call, all calls raise Unavailable at once for `cooldown` seconds. Then one call, with a single attempt, probes
        whether Redis answers again; until it ends, other calls fail at once. An error about a stored value
        (`ABOUT_A_VALUE`) raises Unavailable too, but later calls are made as usual. Other exceptions of `call` are
        raised as they are.
        """
        await in_task()  # what follows sets a timeout
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
        """Makes up to `tries` attempts; `look` is the unused part of `MAX_LATE_LOOK_SECONDS`."""
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
        except self.errors as error:
            if str(error).startswith(ABOUT_A_VALUE):
                self._answered()
                raise Unavailable(f"a value in Redis cannot be used: {error}", code="redis_unavailable") from error
            self._failed(str(error))
            raise _unavailable(str(error)) from error
        self._answered()
        return answer

    async def find_primaries(self) -> None:
        """Finds the current primaries of a cluster or of servers with Sentinels; does nothing for a single server.

        Failures are ignored: the primaries are searched for again, in the background, after the next failed call.
        """
        if self._rediscover is not None:
            with suppress(*self.errors):
                async with asyncio.timeout(MAX_DISCOVERY_SECONDS):
                    await self._rediscover()

    async def close(self) -> None:
        if self._discovery is not None:
            self._discovery.cancel()
            await asyncio.wait([self._discovery])

    def _answered(self) -> None:
        if not self._up:
            log.info("Redis answers again")
            self._up = True
            self._tell(True)

    def _failed(self, why: str) -> None:
        self._resting_until = asyncio.get_running_loop().time() + self._cooldown
        if self._up:
            log.warning("Redis does not answer: %s", why)
            self._up = False
            self._tell(False)
        # Outside the time limit of a call: after a failover, an old primary that hangs never reports an error.
        if self._rediscover is not None and (self._discovery is None or self._discovery.done()):
            self._discovery = asyncio.create_task(self.find_primaries())

    async def _by(self, due: float, latest: float, call: Callable[[], Awaitable[Answer]]) -> Answer:
        cancellations = pending_cancellations()
        async with _listening(due, latest):
            answer = await call()
        if pending_cancellations() > cancellations:
            raise asyncio.CancelledError
        return answer


@asynccontextmanager
async def _listening(due: float, latest: float) -> AsyncIterator[None]:
    """Limits the block's time like `asyncio.timeout_at(due)`, but waits a little longer if the event loop was busy.

    On a busy loop the result may have arrived by `due`: the block may take `MAX_LATE_LOOKS` more iterations of the
    loop, until `latest`. `due` and `latest` are on the loop's clock.
    """
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
    """Returns how many cancellations of the current task are pending (`Task.cancelling`); 0 outside a task.

    If the number has grown when a call of redis-py returns, a cancellation was lost: Python 3.11's `asyncio.wait_for`,
    which redis-py uses, ignores a cancellation that arrives together with the result.
    """
    task = asyncio.current_task()
    return task.cancelling() if task else 0


@cache
def read_script(package: str, name: str) -> str:
    """Returns the text of the Lua script lua/NAME.lua in a package; raises FileNotFoundError if there is none."""
    return files(package).joinpath("lua", f"{name}.lua").read_text("utf-8")


def _unavailable(why: str) -> Unavailable:
    return Unavailable(f"Redis does not answer: {why}", code="redis_unavailable", retry_after=COOLDOWN)


@asynccontextmanager
async def open_redis(
    url: str, tell: Callable[[bool], None], deadline: float = CALL_TIMEOUT_SECONDS, cooldown: float = COOLDOWN
) -> AsyncIterator[BoundedRedis]:
    """Opens a BoundedRedis for the length of the block; the module `redis_clients` describes the forms of `url`.

    `tell` is called with False when Redis stops answering, and with True when it answers again. `deadline` and
    `cooldown` are in seconds: the time limit of an attempt, and how long calls fail at once after a failure. Raises
    ValueError if the URL is not valid. Raises nothing if Redis does not answer: calls then fail.
    """
    from pointsman_servicekit.redis_clients import open_client

    async with open_client(url) as client:
        redis = BoundedRedis(client, tell, deadline, cooldown)
        await redis.find_primaries()
        try:
            yield redis
        finally:
            await redis.close()


def parse_count(text: str, place: str) -> int:
    """Parses a whole number that was read from Redis.

    `place` is the number's place in Redis, for the error's message. Raises FailedPrecondition ("unreadable_record") if
    `text` is not a whole number.
    """
    try:
        return int(text)
    except ValueError as error:
        message = f"{place} in Redis cannot be read: {text[:100]!r} is no whole number"
        raise FailedPrecondition(message, code="unreadable_record") from error
