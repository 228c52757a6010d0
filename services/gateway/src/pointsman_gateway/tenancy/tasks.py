"""Background tasks of the tenancy: they renew leases, write the usage of keys, and refresh keys after a change.

Usage is counted on the path of the requests and written to Redis in numbered batches off it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, fields

from pointsman_servicekit.bounded_redis import BoundedRedis, pending_cancellations, read_script
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.domain import Usage
from pointsman_gateway.domain.receipt import CANCELLED, is_failure
from pointsman_gateway.tenancy.keys import VerifiedKeys
from pointsman_gateway.tenancy.lease_store import LeaseStore
from pointsman_gateway.tenancy.leases import LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, KeyUsage, LimitRegistry, TenantLimits, UsageCounters

RETENTION_DAYS = 400
"""Days after its last change for which a day's usage is kept."""
MAX_COUNTS_PER_BATCH = 2000
"""A batch must be written within Redis's deadline."""

_COUNTERS = tuple(one.name for one in fields(UsageCounters))

log = logging.getLogger(__name__)

RENEW_INTERVAL_SECONDS = 0.1
"""Seconds between two checks of the leases, unless one runs low."""
POLL_INTERVAL_SECONDS = 0.4
"""Seconds between two polls for changed keys, since a published message can be lost."""
POLL_TIMEOUT_SECONDS = 0.5
"""Seconds for each call of a poll that has failed with the shorter timeout of requests. Otherwise a gateway that waits
for a processor would not learn of a revocation: none of its calls is in time, and after each there is a cooldown."""
WRITE_INTERVAL_SECONDS = 0.25
"""Seconds between two batches of usage."""
SUBSCRIBE_TIMEOUT_SECONDS = 5.0
SHUTDOWN_TIMEOUT_SECONDS = 1.0
"""Seconds for writing the last usage and returning the leases when the gateway stops."""


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """Usage counts that are written atomically; sending a batch again is idempotent."""

    number: int
    day: str
    counts: Mapping[str, int]


class UsageWriter:
    def __init__(self, redis: BoundedRedis, clock: Clock, gateway: str) -> None:
        self._redis = redis
        self._clock = clock
        self._write_batch = redis.client.register_script(read_script(__package__, "count_usage"))
        self._writer = redis_layout.USAGE_WRITER + gateway
        self._day, self._day_began, self._day_ends = "", 0.0, 0.0
        self._nonzero: list[KeyUsage] = []
        """Usages whose counters are not zero."""
        self._waiting: dict[str, dict[str, int]] = {}
        """Counts by day. Their number is bounded by the number of keys, however long Redis is unavailable."""
        self._batch: UsageBatch | None = None
        """The batch that was sent and is not known to be written."""
        self._number = 0
        self._writing = asyncio.Lock()
        self._written_at = clock.monotonic()
        """When everything had been written."""

    def count(self, key: KeyUsage, usage: Usage, picodollars: int, outcome: str) -> None:
        """Counts a request that has ended, on the current day."""
        if not self._day_began <= self._clock.wall() < self._day_ends:
            self._begin_day()
        counters = key.counters
        if not counters.requests:
            self._nonzero.append(key)
        counters.requests += 1
        counters.prompt_tokens += usage.prompt_tokens
        counters.cached_tokens += usage.cached_tokens
        counters.completion_tokens += usage.completion_tokens
        counters.picodollars += picodollars
        if outcome == CANCELLED:
            counters.cancelled += 1
        elif is_failure(outcome):
            counters.failed += 1

    @property
    def waiting(self) -> int:
        """Returns the number of requests whose usage is not known to be written."""
        self._collect()
        counts = [*self._waiting.values(), *([self._batch.counts] if self._batch else [])]
        return sum(n for one in counts for name, n in one.items() if name.endswith(":requests"))

    @property
    def flush_lag(self) -> float:
        """Returns the seconds since everything was written; below 1 while Redis is available, whatever the load."""
        return self._clock.monotonic() - self._written_at

    async def write(self) -> None:
        """Writes all counts; raises Unavailable, and then keeps them."""
        async with self._writing:
            self._collect()
            while batch := self._batch or self._next_batch():
                self._batch = batch
                await self._write(batch)
                self._batch = None
            self._written_at = self._clock.monotonic()

    async def _write(self, batch: UsageBatch) -> None:
        arguments: list[str | int] = [batch.number, RETENTION_DAYS * redis_layout.A_DAY, len(batch.counts)]
        for name, number in batch.counts.items():
            arguments += (name, number)
        keys = [self._writer, redis_layout.USAGE + batch.day]
        await self._redis.call(lambda: self._write_batch(keys=keys, args=arguments))

    def _begin_day(self) -> None:
        """Begins a day, which may be earlier than the previous one if the clock was corrected."""
        self._collect()
        now = self._clock.wall()
        self._day, self._day_began = redis_layout.day_of(now), now // redis_layout.A_DAY * redis_layout.A_DAY
        self._day_ends = self._day_began + redis_layout.A_DAY

    def _collect(self) -> None:
        """Moves the keys' counters to the counts that wait for Redis."""
        nonzero, self._nonzero = self._nonzero, []
        for key in nonzero:
            counters, key.counters = key.counters, UsageCounters()
            counts = self._waiting.setdefault(self._day, {})
            for counter in _COUNTERS:
                number = getattr(counters, counter)
                if number:
                    name = f"{key.tenant.tenant}:{key.key}:{counter}"
                    counts[name] = counts.get(name, 0) + number

    def _next_batch(self) -> UsageBatch | None:
        for day, waiting in list(self._waiting.items()):
            names = list(waiting)[:MAX_COUNTS_PER_BATCH]
            counts = {name: waiting.pop(name) for name in names}
            if not waiting:
                del self._waiting[day]
            if counts:
                self._number += 1
                return UsageBatch(self._number, day, counts)
        return None


class TenancyTasks:
    def __init__(
        self,
        leases: LeaseStore,
        limits: LimitRegistry,
        usage: UsageWriter,
        keys: VerifiedKeys,
        connections: Sequence[BoundedRedis],
    ) -> None:
        """Takes the `connections` to Redis that a poll tries one after the other."""
        self.leases, self._limits, self._usage, self._keys = leases, limits, usage, keys
        self._sources = [(redis, KeyStore(redis)) for redis in connections]
        leases.metrics.flush_lag.set_function(lambda: usage.flush_lag)
        self._low, self._changed = asyncio.Event(), asyncio.Event()
        self._is_available = True
        """Whether Redis answered the last poll."""
        self.wake = self._low.set
        """Renews leases at once."""

    @asynccontextmanager
    async def running(self, clock: Clock) -> AsyncIterator[None]:
        """Runs the tasks during the block; at its end usage is written and leases are returned, if Redis answers."""

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
        """Reports all limits that are due, one tenant after the other. Raises Unavailable."""
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
        """Registers this gateway as running, and refreshes the keys if they have changed. Raises Unavailable."""
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
        """Listens until Redis is unavailable: a connection that was cut reports nothing, so a new one is needed."""
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
