"""What tenancy does beside the requests: speaks of slices, writes usage, hears of revocations."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from pointsman_servicekit.bounded_redis import BoundedRedis, pending_cancellations
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys import redis_layout
from redis.exceptions import RedisError

from pointsman_gateway.tenancy.keys import VerifiedKeys
from pointsman_gateway.tenancy.lease_store import LeaseStore
from pointsman_gateway.tenancy.leases import LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, LimitRegistry, TenantLimits
from pointsman_gateway.tenancy.metrics import TenancyMetrics
from pointsman_gateway.tenancy.usage import UsageWriter

log = logging.getLogger(__name__)

RENEW_INTERVAL_S = 0.1
"""Seconds between two looks at the slices, unless one runs low."""
POLL_INTERVAL_S = 0.4
"""Seconds between two questions whether keys have changed: a message of it can be lost."""
WRITE_INTERVAL_S = 0.25
"""Seconds between two batches of usage."""
SUBSCRIBE_TIMEOUT_S = 5.0
SHUTDOWN_TIMEOUT_S = 1.0
"""Seconds that it may take to write the last usage, and to give the slices back, when the gateway stops."""


class BackgroundTasks:
    def __init__(
        self,
        ledger: LeaseStore,
        books: LimitRegistry,
        tallies: UsageWriter,
        identities: VerifiedKeys,
        metrics: TenancyMetrics,
    ) -> None:
        self.ledger, self._books, self._tallies, self._identities = ledger, books, tallies, identities
        self._metrics = metrics
        metrics.unwritten.set_function(lambda: tallies.unwritten_seconds)
        self._low, self._changed = asyncio.Event(), asyncio.Event()
        self._heard = True
        """Whether the last question was answered."""
        self.wake = self._low.set

    @asynccontextmanager
    async def running(self, redis: BoundedRedis, clock: Clock) -> AsyncIterator[None]:
        with suppress(Unavailable):
            await self.poll()
        tasks = [
            asyncio.create_task(repeat(lambda: self._poll_in(POLL_INTERVAL_S)), name="ask whether keys have changed"),
            asyncio.create_task(repeat(lambda: self._listen(redis)), name="hear that keys have changed"),
            asyncio.create_task(repeat(lambda: self._speak_in(RENEW_INTERVAL_S, clock)), name="speak of slices"),
            asyncio.create_task(repeat(self._write_in), name="write usage"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._say_the_last(clock)

    async def speak(self, now: float) -> None:
        """Tells Redis of the accounts that are due, tenant by tenant. Raises Unavailable."""
        due: dict[TenantLimits, list[LeasedLimit]] = {}
        slices = 0
        for book in list(self._books.lively):
            lively = book.in_flight > 0
            for account in book.ways.all:
                slices += account.free > 0
                lively = lively or not account.is_quiet
                if account.is_due(now):
                    due.setdefault(book.purse, []).append(account)
            if not lively:
                self._books.calm(book)
        self._metrics.slices.set(slices)
        for purse, accounts in due.items():
            async with purse.speaking:
                await self.ledger.exchange(dict.fromkeys(accounts, (0, 0)))

    async def _speak_in(self, period: float, clock: Clock) -> None:
        await _wait_for(self._low, period)
        await self.speak(clock.monotonic())

    async def _poll_in(self, period: float) -> None:
        await _wait_for(self._changed, period)
        await self.poll()

    async def poll(self) -> None:
        """Says that this gateway is there, and hears whether keys have changed. Raises Unavailable."""
        try:
            await self._identities.verify(await self.ledger.poll())
            self._heard = True
        except Unavailable:
            self._heard = False
            raise

    async def _listen(self, redis: BoundedRedis) -> None:
        """Until Redis goes away: a connection that is cut says nothing, so another is opened then."""
        async with redis.client.pubsub() as told:
            try:
                async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                    await told.subscribe(redis_layout.CHANGED)
                while self._heard and not pending_cancellations():
                    if await told.get_message(ignore_subscribe_messages=True, timeout=1.0) is not None:
                        self._changed.set()
            except (RedisError, OSError):
                pass  # asking goes on meanwhile
        await asyncio.sleep(POLL_INTERVAL_S)

    async def _write_in(self) -> None:
        await asyncio.sleep(WRITE_INTERVAL_S)
        await self._tallies.write()

    async def _say_the_last(self, clock: Clock) -> None:
        for book in self._books.lively:
            for account in book.ways.all:
                account.closing = True
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await self._tallies.write()
                await self.speak(clock.monotonic())
                await self.ledger.leave()
        except (Unavailable, TimeoutError):
            lost = self._tallies.waiting  # nobody asks for metrics any more: the log alone can say so
            log.warning("Redis is away: the usage of %d requests is lost, and slices come back by themselves", lost)


async def _wait_for(event: asyncio.Event, period: float) -> None:
    """Until then, or for so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(period):
            await event.wait()
    event.clear()


async def repeat(work: Callable[[], Awaitable[None]]) -> None:
    """Until it is cancelled, whatever `work` makes of that."""
    while not pending_cancellations():
        try:
            await work()
        except Unavailable:
            await asyncio.sleep(0.1)  # the breaker has told, and lets it be tried again
        except Exception:  # whatever it is, limits must go on
            log.exception("the upkeep of keys and limits failed")
            await asyncio.sleep(1.0)
    raise asyncio.CancelledError
