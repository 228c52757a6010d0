"""Reads what API keys have used, and what is left of their limits."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import NANO, PICO, Limits
from pointsman_servicekit.keys.redis_layout import Window

Counts = Mapping[str, int]
"""From counter to number; a missing counter is 0."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of each (tenant, key id)."""

    today: Mapping[tuple[str, str], Counts]
    month: Mapping[tuple[str, str], Counts]


class UsageStore:
    """Each method raises Unavailable ("redis_unavailable") if Redis does not answer in time."""

    def __init__(self, redis: BoundedRedis, wall: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._wall = wall

    async def read(self) -> Usage:
        days = redis_layout.days_of_month(self._wall())
        by_day = [await self.day(day) for day in days]
        return Usage(by_day[-1], {who: sum_counts(day.get(who, {}) for day in by_day) for who in set().union(*by_day)})

    async def day(self, day: str) -> Mapping[tuple[str, str], Counts]:
        fields = await self._redis.call(lambda: self._redis.client.hgetall(redis_layout.USAGE + day))
        read: dict[tuple[str, str], dict[str, int]] = {}
        for name, number in fields.items():
            tenant, key, counter = name.split(":")
            read.setdefault((tenant, key), {})[counter] = int(number)
        return read

    async def left(self, tenant: str, whose: str, limits: Limits) -> Mapping[str, float]:
        """What is neither used nor reserved of each limit that is set, by the gateways' last report.

        It is negative if answers took more than was reserved for them.
        """
        now = int(self._wall() * 1000)
        left: dict[str, float] = {}
        for limit, window in redis_layout.WINDOWS.items():
            most = getattr(limits, limit)
            if most is not None:
                used = await self._used(redis_layout.limit_key(tenant, whose, limit), window, now)
                left[limit] = (round(most * NANO) - used) / NANO if limit.startswith("dollars") else most - used
        return left

    async def _used(self, name: str, window: Window, now: int) -> int:
        found, used = await self._redis.call(lambda: self._redis.client.hmget(name, ["window", "used"]))
        return int(used) if found == str(redis_layout.window_at(window, now)[0]) else 0


def sum_counts(all_counts: Iterable[Counts]) -> Counts:
    """Adds the counts counter by counter."""
    added: dict[str, int] = {}
    for counts in all_counts:
        for name, number in counts.items():
            added[name] = added.get(name, 0) + number
    return added


def dollars(counts: Counts) -> float:
    return counts.get("picodollars", 0) / PICO
