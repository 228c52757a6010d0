"""Background tasks of the tenancy: they renew leases, write the usage of keys, and refresh keys after a change."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from pointsman_servicekit.bounded_redis import BoundedRedis, pending_cancellations
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.tenancy.keys import VerifiedKeys
from pointsman_gateway.tenancy.lease_store import LeaseStore
from pointsman_gateway.tenancy.leases import LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, LimitRegistry, TenantLimits
from pointsman_gateway.tenancy.usage_writer import UsageWriter

log = logging.getLogger(__name__)

RENEW_INTERVAL_SECONDS = 0.1
"""Maximum number of seconds between two checks of the leases; a lease that runs low is checked at once."""
POLL_INTERVAL_SECONDS = 0.4
"""Seconds between two polls for changed keys, since a published message can be lost."""
POLL_TIMEOUT_SECONDS = 0.5
"""Timeout of a poll's second call to Redis, after a call with the shorter timeout of requests has failed. With the
shorter timeout alone, a gateway on an overloaded machine might never learn of a revocation."""
WRITE_INTERVAL_SECONDS = 0.25
"""Seconds between two writes of the usage of keys to Redis."""
SUBSCRIBE_TIMEOUT_SECONDS = 5.0
SHUTDOWN_TIMEOUT_SECONDS = 1.0
"""Seconds for writing the last usage and returning the leases when the gateway stops."""


class TenancyTasks:
    def __init__(
        self,
        leases: LeaseStore,
        limits: LimitRegistry,
        usage: UsageWriter,
        keys: VerifiedKeys,
        connections: Sequence[BoundedRedis],
    ) -> None:
        """Takes the `connections` to Redis that a poll tries one after the other, the one with the longest timeout
        last.
        """
        self.leases, self._limits, self._usage, self._keys = leases, limits, usage, keys
        self._sources = [(redis, KeyStore(redis)) for redis in connections]
        leases.metrics.flush_lag.set_function(lambda: usage.flush_lag)
        self._low, self._changed = asyncio.Event(), asyncio.Event()
        self._is_available = True
        """Whether Redis answered the last poll."""
        self.wake = self._low.set
        """Makes the task that renews leases run at once."""

    @asynccontextmanager
    async def running(self, clock: Clock) -> AsyncIterator[None]:
        """Runs the tasks during the block. At its end, writes usage and returns leases if Redis answers within
        `SHUTDOWN_TIMEOUT_SECONDS`; otherwise the usage is lost.
        """

        async def renew() -> None:
            try:
                await self.renew(clock.monotonic())
            except Unavailable:
                await asyncio.sleep(RENEW_INTERVAL_SECONDS)  # requests may wake this task all the time

        with suppress(Unavailable):
            await self.poll()
        try:
            async with AsyncExitStack() as stack:
                for work, schedule, name in (
                    (self.poll, Schedule(POLL_INTERVAL_SECONDS, wake=self._changed), "poll for changed keys"),
                    (self._listen, Schedule(POLL_INTERVAL_SECONDS, run_at_start=True), "listen for changed keys"),
                    (renew, Schedule(RENEW_INTERVAL_SECONDS, wake=self._low), "renew quota leases"),
                    (self._usage.write, Schedule(WRITE_INTERVAL_SECONDS), "write usage"),
                ):
                    await stack.enter_async_context(running_periodically(work, schedule, name))
                yield
        finally:
            await self._shut_down(clock)

    async def renew(self, now: float) -> None:
        """Reports usage to Redis and renews the leases of all limits in use whose renewal is due; `now` is in
        monotonic seconds.

        Raises Unavailable if Redis does not answer in time.
        """
        due: dict[TenantLimits, list[LeasedLimit]] = {}
        leases = 0
        for usage in list(self._limits.dirty):
            is_dirty = usage.in_flight > 0
            for limit in usage.limits.all:
                leases += limit.free > 0
                is_dirty = is_dirty or not limit.is_settled
                if limit.is_due(now):
                    due.setdefault(usage.tenant, []).append(limit)
            if not is_dirty:
                self._limits.clear_dirty(usage)
        self.leases.metrics.leases.set(leases)
        for tenant, limits in due.items():
            async with tenant.exchange_lock:
                await self.leases.exchange(dict.fromkeys(limits, (0, 0)))

    async def poll(self) -> None:
        """Registers this gateway in Redis as running, and reads the cached API keys again if a key or limit has
        changed.

        Raises Unavailable if Redis does not answer in time.
        """
        *quick, patient = self._sources
        for source in quick:
            with suppress(Unavailable):
                return await self._poll(*source)
        try:
            await self._poll(*patient)
        except Unavailable:
            self._is_available = False
            self._keys.forget_epoch()
            raise

    async def _poll(self, redis: BoundedRedis, stored: KeyStore) -> None:
        await self._keys.refresh(await self.leases.poll(redis), stored)
        self._is_available = True

    async def _listen(self) -> None:
        """Wakes `poll` at each message about changed keys. Returns once Redis is unavailable; then it has to be called
        again.
        """
        redis = self._sources[-1][0]
        async with redis.client.pubsub() as subscription:
            try:
                async with asyncio.timeout(SUBSCRIBE_TIMEOUT_SECONDS):
                    await subscription.subscribe(redis_layout.CHANGED)
                while self._is_available and not pending_cancellations():
                    message = await subscription.get_message(ignore_subscribe_messages=True, timeout=1.0)
                    if message is not None:
                        self._changed.set()
            except redis.errors:
                pass  # polling continues meanwhile

    async def _shut_down(self, clock: Clock) -> None:
        for usage in self._limits.dirty:
            for limit in usage.limits.all:
                limit.closing = True
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_SECONDS):
                await self._usage.write()
                await self.renew(clock.monotonic())
                await self.leases.leave()
        except (Unavailable, TimeoutError):
            lost = self._usage.waiting  # metrics are not scraped any more, so only the log can report it
            log.warning("Redis is unavailable: the usage of %d requests is lost, and leases expire", lost)
