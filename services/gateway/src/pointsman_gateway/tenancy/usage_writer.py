"""Counts the usage of keys in memory, and writes it to Redis in numbered batches in the background."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, fields

from pointsman_servicekit.bounded_redis import BoundedRedis, read_script
from pointsman_servicekit.keys import redis_layout

from pointsman_gateway.domain import Usage
from pointsman_gateway.domain.outcome import CANCELLED, is_failure
from pointsman_gateway.tenancy.limits import Clock, KeyUsage, UsageCounters

RETENTION_DAYS = 400
"""Days for which Redis keeps a day's usage after its last change."""

MAX_COUNTS_PER_BATCH = 2000
"""Maximum number of counts in one batch, which must be written within the time limit of a call to Redis."""

_COUNTERS = tuple(one.name for one in fields(UsageCounters))


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """The usage counts of one UTC day that are written to Redis together. Sending a batch again changes nothing,
    because Redis knows its number.
    """

    number: int
    day: str
    """The day of the usage, YYYYMMDD in UTC."""
    counts: Mapping[str, int]
    """The amount to add to each counter in Redis, by "TENANT:KEY:COUNTER"."""


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
        """Counts by day and name. While Redis is unavailable, their number is limited by that of the keys."""
        self._batch: UsageBatch | None = None
        """The batch that was sent and is not known to be written."""
        self._number = 0
        self._writing = asyncio.Lock()
        self._written_at = clock.monotonic()
        """The last time on the monotonic clock at which Redis had all usage."""

    def count(self, key: KeyUsage, usage: Usage, picodollars: int, outcome: str) -> None:
        """Adds a request that ends now to the usage of its key, on the current UTC day; `outcome` is "ok",
        "cancelled" or an error's code.
        """
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
        """Returns the number of requests whose usage Redis has not confirmed yet."""
        self._collect()
        counts = [*self._waiting.values(), *([self._batch.counts] if self._batch else [])]
        return sum(n for one in counts for name, n in one.items() if name.endswith(":requests"))

    @property
    def flush_lag(self) -> float:
        """Returns the seconds since the usage of all requests so far was last in Redis; usually below 1 while Redis
        is available.
        """
        return self._clock.monotonic() - self._written_at

    async def write(self) -> None:
        """Adds all usage that was counted since the last successful call to the counters in Redis.

        Raises Unavailable if Redis does not answer in time; the usage that was not written is kept for the next call.
        """
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
        """Begins to count on the current day, which may be before the last one if the machine's clock was corrected."""
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
