"""The names under which Redis stores API keys, limits and usage, and functions that read usage and remaining limits.

Names that one script uses share a hash tag, so a Redis cluster stores their values in one slot.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pointsman_servicekit.bounded_redis import BoundedRedis, parse_count
from pointsman_servicekit.errors import FailedPrecondition
from pointsman_servicekit.keys.records import NANO, PICO, Limits

A_MINUTE = 60
A_DAY = 24 * 60 * 60

KEYS = "{pointsman}:keys"
"""A hash from a credential's digest to the key's record as JSON."""

INDEX = "{pointsman}:keys:index"
"""A hash from a key's id, and from its prefix, to its credential's digest."""

TENANTS = "{pointsman}:tenants"
"""A hash from a tenant's name to its record as JSON."""

EPOCH = "{pointsman}:keys:epoch"
"""A counter, incremented by each change that gateways must apply at once, such as a revocation or new limits."""

CHANGED = "{pointsman}:keys:changed"
"""The Redis pub/sub channel that announces each new value of `EPOCH`, a counter of changes to API keys and limits."""

GATEWAYS = "{pointsman}:gateways"
"""A sorted set from a gateway's id to the time at which its lease ends, in Unix milliseconds."""

USAGE = "{pointsman}:usage:"
"""Prefix of the names of Redis hashes with the usage of a day; the day (YYYYMMDD, UTC) follows.

Each hash maps "TENANT:KEY:COUNTER" to a whole number.
"""

USAGE_WRITER = "{pointsman}:usage:writer:"
"""Prefix of the names of Redis values with the number of the last batch of usage that a gateway has written.

The gateway's id follows. The number prevents a batch that is sent again from being added twice.
"""

COUNTERS = (
    "requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens", "picodollars"
)  # fmt: skip
"""The counters of usage. `requests` includes failed and cancelled requests, and `prompt_tokens` includes
`cached_tokens`.
"""

WHOLE_TENANT = "tenant"
"""Used instead of a key's id for a limit that all keys of a tenant share."""

Counts = Mapping[str, int]
"""Numbers by counter (`COUNTERS`); a missing counter is 0."""


class Window(StrEnum):
    """The period over which a limit counts; days and months are in UTC."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    NOW = "now"
    """For limits without a period, which apply to the requests that run at the same time."""


WINDOWS = {
    "requests_per_minute": Window.MINUTE,
    "tokens_per_minute": Window.MINUTE,
    "concurrent_streams": Window.NOW,
    "dollars_per_day": Window.DAY,
    "dollars_per_month": Window.MONTH,
}
"""The window of each limit, by the limit's field in `Limits`."""


def limit_key(tenant: str, whose: str, limit: str) -> str:
    """Returns the name of the Redis hash with the state of a limit.

    `whose` is a key's id or `WHOLE_TENANT`, and `limit` a field of `Limits`.

    The hash has the following fields. `window` is the number of the window (see `window_at`). For each gateway's lease,
    the part of the limit that the gateway may use without asking Redis, there is a field with the text "HELD USED
    NUMBER EXPIRES": USED is what the gateway has used, HELD is USED plus what the gateway may still use, NUMBER is the
    number of the gateway's last report, and EXPIRES is in Unix milliseconds. `used` and `held` are the sums over all
    leases. Amounts of dollars are in nanodollars. All limits of a tenant are in one slot of a cluster.
    """
    return f"{{pointsman:{tenant}}}:account:{whose}:{limit}"


def window_at(window: Window, unix_ms: int) -> tuple[int, int]:
    """Returns the number of the window that contains `unix_ms`, and its end in Unix milliseconds.

    Windows are numbered from 1970 for minutes and days, and as 12 * year + month - 1 for months. For NOW it returns 0
    and a time in the far future.
    """
    if window is Window.NOW:
        return 0, 2**62
    if window is Window.MONTH:
        at = datetime.fromtimestamp(unix_ms / 1000, UTC)
        number = at.year * 12 + at.month - 1
        after = datetime((number + 1) // 12, (number + 1) % 12 + 1, 1, tzinfo=UTC)
        return number, int(after.timestamp()) * 1000
    length = (A_MINUTE if window is Window.MINUTE else A_DAY) * 1000
    number = unix_ms // length
    return number, (number + 1) * length


def day_of(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y%m%d")


def days_of_month(unix_seconds: float) -> list[str]:
    """Returns the days of the month of `unix_seconds` from the first up to that time's day (UTC), as YYYYMMDD."""
    at = datetime.fromtimestamp(unix_seconds, UTC)
    return [f"{at:%Y%m}{day:02}" for day in range(1, at.day + 1)]


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of today and of this month so far (UTC), by (tenant, key id)."""

    today: Mapping[tuple[str, str], Counts]
    month: Mapping[tuple[str, str], Counts]


class UsageStore:
    """Reads usage and the remaining part of limits from Redis.

    Each method raises Unavailable ("redis_unavailable") if Redis does not answer, and FailedPrecondition
    ("unreadable_record") if a value cannot be parsed, since a sum without it would be too small.
    """

    def __init__(self, redis: BoundedRedis, wall: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._wall = wall

    async def read(self) -> Usage:
        days = days_of_month(self._wall())
        by_day = [await self.day(day) for day in days]
        return Usage(by_day[-1], {who: sum_counts(day.get(who, {}) for day in by_day) for who in set().union(*by_day)})

    async def day(self, day: str) -> Mapping[tuple[str, str], Counts]:
        fields = await self._redis.call(lambda: self._redis.client.hgetall(USAGE + day))
        read: dict[tuple[str, str], dict[str, int]] = {}
        for name, number in fields.items():
            place = f"field {name[:100]!r} of {USAGE}{day}"
            tenant, key, counter = _split_field(name, place)
            read.setdefault((tenant, key), {})[counter] = parse_count(number, place)
        return read

    async def left(self, tenant: str, whose: str, limits: Limits) -> Mapping[str, float]:
        """Returns the unused part of each limit that is set, by the limit's name, as the gateways last reported it.

        The unused part is the limit minus what was used and what running requests have reserved, in the limit's own
        unit (dollars for budgets). It is negative if answers took more than was reserved for them. `whose` is a key's
        id or `WHOLE_TENANT`.
        """
        now = int(self._wall() * 1000)
        left: dict[str, float] = {}
        for limit, window in WINDOWS.items():
            most = getattr(limits, limit)
            if most is not None:
                used = await self._used(limit_key(tenant, whose, limit), window, now)
                left[limit] = (round(most * NANO) - used) / NANO if limit.startswith("dollars") else most - used
        return left

    async def _used(self, name: str, window: Window, now: int) -> int:
        found, used = await self._redis.call(lambda: self._redis.client.hmget(name, ["window", "used"]))
        if found != str(window_at(window, now)[0]):
            return 0
        return parse_count(used or "", f"field 'used' of {name}")


def _split_field(name: str, place: str) -> tuple[str, str, str]:
    try:
        tenant, key, counter = name.split(":")
    except ValueError as error:
        message = f"{place} in Redis cannot be read: it is not TENANT:KEY:COUNTER"
        raise FailedPrecondition(message, code="unreadable_record") from error
    return tenant, key, counter


def sum_counts(all_counts: Iterable[Counts]) -> Counts:
    """Returns the sum of each counter over several mappings of counters."""
    added: dict[str, int] = {}
    for counts in all_counts:
        for name, number in counts.items():
            added[name] = added.get(name, 0) + number
    return added


def dollars(counts: Counts) -> float:
    return counts.get("picodollars", 0) / PICO
