"""Counts what keys use, and writes it to Redis in numbered batches, away from the requests."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, fields

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.keys import redis_layout

from pointsman_gateway.domain import Usage
from pointsman_gateway.domain.outcome import CANCELLED, is_failure
from pointsman_gateway.tenancy import lease_store
from pointsman_gateway.tenancy.limits import Clock, KeyUsage, UsageCounters

RETENTION_DAYS = 400
"""After the last change."""
MAX_COUNTS_PER_BATCH = 2000
"""Counts; a batch is written within Redis's deadline."""

_COUNTERS = tuple(one.name for one in fields(UsageCounters))


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """Written as one, however often it is sent."""

    number: int
    day: str
    counts: Mapping[str, int]


class UsageWriter:
    def __init__(self, redis: BoundedRedis, clock: Clock, gateway: str) -> None:
        self._redis = redis
        self._clock = clock
        self._write_batch = redis.client.register_script(lease_store.COUNT_SCRIPT)
        self._writer = redis_layout.USAGE_WRITER + gateway
        self._day, self._day_began, self._day_ends = "", 0.0, 0.0
        self._busy: list[KeyUsage] = []
        """Whose tallies are not empty."""
        self._waiting: dict[str, dict[str, int]] = {}
        """By day: counts, which are no more than keys have counters, however long Redis is away."""
        self._batch: UsageBatch | None = None
        """Sent, and not yet known to be written."""
        self._number = 0
        self._writing = asyncio.Lock()
        self._written = clock.monotonic()
        """When nothing waited last."""

    def count(self, book: KeyUsage, usage: Usage, picodollars: int, outcome: str) -> None:
        """One request that has ended, today."""
        if not self._day_began <= self._clock.wall() < self._day_ends:
            self._begin_day()
        tally = book.tally
        if not tally.requests:
            self._busy.append(book)
        tally.requests += 1
        tally.prompt_tokens += usage.prompt_tokens
        tally.cached_tokens += usage.cached_tokens
        tally.completion_tokens += usage.completion_tokens
        tally.picodollars += picodollars
        if outcome == CANCELLED:
            tally.cancelled += 1
        elif is_failure(outcome):
            tally.failed += 1

    @property
    def waiting(self) -> int:
        """Requests whose usage is not known to be written."""
        self._collect()
        counts = [*self._waiting.values(), *([self._batch.counts] if self._batch else [])]
        return sum(n for one in counts for name, n in one.items() if name.endswith(":requests"))

    @property
    def unwritten_seconds(self) -> float:
        """Since all was last written: a fraction of one while all is well, however much is asked."""
        return self._clock.monotonic() - self._written

    async def write(self) -> None:
        """Writes all that waits. Raises Unavailable, and then keeps it."""
        async with self._writing:
            self._collect()
            while batch := self._batch or self._next_batch():
                self._batch = batch
                await self._write(batch)
                self._batch = None
            self._written = self._clock.monotonic()

    async def _write(self, batch: UsageBatch) -> None:
        arguments: list[str | int] = [batch.number, RETENTION_DAYS * redis_layout.A_DAY, len(batch.counts)]
        for name, number in batch.counts.items():
            arguments += (name, number)
        names = [self._writer, redis_layout.USAGE + batch.day]
        await self._redis.call(lambda: self._write_batch(keys=names, args=arguments))

    def _begin_day(self) -> None:
        """It may lie before the one of until now: a clock that was ahead is put right."""
        self._collect()
        now = self._clock.wall()
        self._day, self._day_began = redis_layout.day_of(now), now // redis_layout.A_DAY * redis_layout.A_DAY
        self._day_ends = self._day_began + redis_layout.A_DAY

    def _collect(self) -> None:
        """Puts the tallies to what waits for Redis."""
        busy, self._busy = self._busy, []
        for book in busy:
            tally, book.tally = book.tally, UsageCounters()
            counts = self._waiting.setdefault(self._day, {})
            for counter in _COUNTERS:
                number = getattr(tally, counter)
                if number:
                    name = f"{book.purse.tenant}:{book.key}:{counter}"
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
