"""One limit of a key or tenant, of which this gateway holds a lease: a part that Redis has granted to it.

All amounts are integers: requests, tokens, streams or nanodollars. `held` is the whole lease, and `free` the amount
that may still be taken of it; `free` falls below 0 if answers use more than they reserved. `held - free` is this
gateway's usage in the current window. If all gateways together use more than the limit, each gateway's lease shrinks,
so that reservations which are returned first make up for the excess.
"""

import asyncio
from math import inf
from typing import Any

from pointsman_servicekit.keys.redis_layout import WHOLE_TENANT, WINDOWS, Window, window_at

LeaseReport = tuple[int, int, int, int, int]
"""A report on one limit for Redis: the number of the window, the amount used in it, the amount used after its end, the
unused amount that this gateway wants to hold (the wish), and the amount that one request requires (the need)."""

LEASE_SECONDS = 10.0
"""Seconds that a lease lasts after a gateway's last report; afterwards other gateways may use its unused part."""
REPORT_INTERVAL_SECONDS = 0.5
"""Seconds between two reports of a limit's usage to Redis; if the lease of the limit runs low, the report is sent at
once."""
REFUSAL_TTL_SECONDS = 0.1
"""Seconds for which the gateway rejects requests without asking Redis again, after Redis could not grant enough."""
FALLBACK_TTL_SECONDS = 1.0
"""Seconds for which a gateway uses its local fallback before it tries Redis again."""
FIRST_LEASE_DIVISOR = 16
"""While requests wait, the gateway asks Redis for at least the limit divided by this number, because more requests will
probably follow. It never asks for more than its fair share of what is left, unless a request needs more."""
_MIN_MEASUREMENT_SECONDS = {Window.MINUTE: 0.1, Window.DAY: 10.0, Window.MONTH: 10.0}
"""Minimum time over which the rate of usage is measured, by the limit's window; a shorter time gives a poor
estimate."""
_LEASE_AHEAD_SECONDS = {Window.MINUTE: 2.0, Window.DAY: 900.0, Window.MONTH: 900.0}
"""Seconds of usage at the current rate that a gateway tries to hold, by the limit's window.

For limits per minute, the gateway has a local fallback without Redis. For budgets in dollars it has none, so it tries
to hold enough for as long as verified keys stay valid.
"""
_HALF_LIFE_SECONDS = {Window.NOW: 1.0, Window.MINUTE: 2.0, Window.DAY: 60.0, Window.MONTH: 60.0}
"""Half-life with which the measured rate of usage decays, by the limit's window; for limits of streams (`Window.NOW`),
with which the measured concurrency decays."""


class LeasedLimit:
    """One limit of a key or tenant, and this gateway's lease: the part of the limit that Redis has granted to it.

    Reservations change `free` directly, because calls of methods would cost more.
    """

    __slots__ = (
        "_measured_at",
        "_rate",
        "_reported",
        "_synced_at",
        "_used_before",
        "began",
        "carried",
        "closing",
        "ends",
        "free",
        "held",
        "holder",
        "left",
        "limit",
        "low",
        "maximum",
        "name",
        "refused_need",
        "refused_until",
        "unspent",
        "until",
        "window",
        "window_number",
    )

    def __init__(self, name: str, limit: str, maximum: int, holder: str) -> None:
        """Takes `name`, the key in Redis; `limit`, a name in `WINDOWS` such as "tokens_per_minute", and its `maximum`;
        and `holder`, which identifies this lease in Redis.
        """
        self.name, self.limit, self.maximum, self.holder = name, limit, maximum, holder
        self.window = WINDOWS[limit]
        self.window_number = 0 if self.window is Window.NOW else -1
        self.held = self.free = self.carried = 0
        """`held` is the whole lease, and `free` the amount that may still be taken from it. `carried` is the amount
        that was used after the window's end, and counts in the next window."""
        self.began = self.until = -inf
        """The start of the first lease in the window (`began`) and the end of the present lease (`until`), on the
        monotonic clock."""
        self.ends = inf if self.window is Window.NOW else -inf
        """The window's end on the monotonic clock, a little early."""
        self.low = 0
        """The amount below which the free part of the lease is low, so that the lease is renewed."""
        self.closing = False
        """Whether the gateway is shutting down; then it asks Redis for no further part of the limit."""
        self.left = self.unspent = maximum
        """The amount that no gateway holds (`left`), and the amount that no gateway has used (`unspent`), as last
        reported by Redis."""
        self.refused_until, self.refused_need = -inf, 0
        self._rate = 0.0
        self._measured_at = self._synced_at = -inf
        self._used_before = self._reported = 0

    @property
    def is_budget(self) -> bool:
        """Returns whether the limit is in dollars, and so a budget."""
        return self.window in (Window.DAY, Window.MONTH)

    @property
    def owner(self) -> str:
        """Returns whether the limit belongs to a "key" or to a "tenant"."""
        return "tenant" if f":account:{WHOLE_TENANT}:" in self.name else "key"

    @property
    def used(self) -> int:
        return self.held - self.free

    def spent_share(self, now: float) -> float:
        """Returns which fraction of the limit all gateways have used in the current window, as Redis last reported:
        0 to 1, or more if the limit is exceeded.

        Returns 0 once the window has ended. `now` is in monotonic seconds.
        """
        return 1 - self.unspent / self.maximum if now < self.ends else 0.0

    def charge(self, amount: int, now: float) -> None:
        """Counts `amount` as used: takes it from the lease, even if less is free. After the end of the window, it
        counts in the next window instead. `now` is on the monotonic clock.
        """
        if now >= self.ends:
            self.carried += amount
        else:
            self.free -= amount

    def is_refused(self, need: int, now: float) -> bool:
        """Returns whether a request that needs the amount `need` is rejected without asking Redis.

        This is the case if `need` exceeds the whole limit, or if Redis could not grant `need` in the last
        `REFUSAL_TTL_SECONDS`. `now` is in monotonic seconds.
        """
        return need > self.maximum or (now < self.refused_until and need >= self.refused_need)

    # -- exchange with Redis

    def report(self, need: int, waiting: int, gateways: int, now: float) -> LeaseReport:
        """Returns this limit's report for Redis, on the used and the needed amount. Also gives back the part of the
        lease that this gateway should not hold.

        `need` is the amount that one request requires, and `waiting` the amount that all waiting requests require
        together. `gateways` is the number of gateways that share the limit. `now` is in monotonic seconds.
        """
        spare = max(self.free, 0)
        fair_share = (self.left + spare) // (2 * gateways)
        first = self.maximum // FIRST_LEASE_DIVISOR if waiting else 0
        wish = max(need, min(max(self._wish(now), waiting, first), fair_share))
        if spare > wish:
            self.held -= spare - wish
            self.free = wish
        self.low = 0
        self._synced_at = now
        return self.window_number, self.used, self.carried, wish, need

    def install(self, answer: list[int], report: LeaseReport, sent: float, now: float) -> None:
        """Applies the `answer` that Redis gave to `report`, a list of five numbers: the window's number, the
        milliseconds to its end, the amount that this gateway holds, the amount that no gateway holds, and the amount
        that no gateway has used. `sent` and `now` are when the report was sent and the answer arrived, on the monotonic
        clock.
        """
        window, ends_in, held, self.left, self.unspent = answer
        if window == self.window_number:
            used, self._reported = self.used + self.carried, report[1] + report[2]
        else:
            used, self._reported = self.carried, report[2]
            self.window_number, self.began, self._used_before = window, now, 0
        held += min(self.left, 0)
        self.carried, self.held, self.free = 0, held, held - used
        if self.window is not Window.NOW:
            self.ends = sent + ends_in / 1000
        self.until = min(sent + LEASE_SECONDS, self.ends)
        self.low = self.free // 2 if self.free > 0 else self.free
        if held - self._reported < report[4]:
            self.refused_until, self.refused_need = min(now + REFUSAL_TTL_SECONDS, self.ends), report[4]

    def use_local_fallback(self, redis_ms: int, gateways: int, now: float) -> None:
        """Extends the lease by `FALLBACK_TTL_SECONDS` without Redis.

        The gateway may then use at least its share, which is the limit divided by the number of gateways. Of a budget
        in dollars it may use only the unspent part of its lease, also in the next window. `redis_ms` is the estimated
        time of Redis in Unix milliseconds, and `now` the same time on the monotonic clock.
        """
        share = 0 if self.is_budget else self.maximum // gateways
        if now >= self.ends:
            number, ends_ms = window_at(self.window, redis_ms)
            if number != self.window_number:
                lease = share or max(self.free, 0)
                self.window_number, self.began = number, now
                self.held, self.free, self.carried = lease, lease - self.carried, 0
                self._used_before = self._reported = 0
            self.ends = now + (ends_ms - redis_ms) / 1000
        if share > self.held:
            self.free += share - self.held
            self.held = share
        self.until = min(now + FALLBACK_TTL_SECONDS, self.ends)
        self.low = 0

    # -- when to renew the lease

    def is_due(self, now: float) -> bool:
        if self.closing:
            return not self.is_settled
        if self.free < self.low:
            return True
        if now < self._synced_at + REPORT_INTERVAL_SECONDS:
            return False
        if now >= self.until and self._wish(now) > 0:
            return True
        if self.used != self._reported or self.carried or max(self.free, 0) > self._wish(now):
            return True
        return self._is_leased and now > self._synced_at + LEASE_SECONDS / 3

    @property
    def is_settled(self) -> bool:
        """Returns whether this gateway holds nothing of the limit: all usage is reported, no part of the lease is
        left, and no stream is in use.
        """
        return not (self._is_leased or self.carried or self.used != self._reported)

    @property
    def _is_leased(self) -> bool:
        return self.free > 0 or (self.window is Window.NOW and self.used > 0)

    def _wish(self, now: float) -> int:
        """Returns the unused amount that the gateway should hold, by its recent usage; 0 if it is shutting down.

        Also measures the usage. `now` is on the monotonic clock.
        """
        if self.closing:
            return 0
        elapsed = now - self._measured_at
        if self.window is Window.NOW:
            # 1.5 times the recent concurrency: the present number of streams says little.
            self._rate = max(self.used, self._rate * 0.5 ** (elapsed / _HALF_LIFE_SECONDS[self.window]))
            self._measured_at = now
            return int(self._rate * 1.5) + 2 - self.used if self._rate >= 1 else 0
        rate = max(self.used - self._used_before, 0) / max(elapsed, _MIN_MEASUREMENT_SECONDS[self.window])
        if elapsed >= _MIN_MEASUREMENT_SECONDS[self.window]:
            self._rate *= 0.5 ** (elapsed / _HALF_LIFE_SECONDS[self.window])
            self._rate = max(rate, self._rate)
            self._measured_at, self._used_before = now, self.used
        return int(max(rate, self._rate) * _LEASE_AHEAD_SECONDS[self.window])

    def remaining(self) -> int:
        return max(0, self.free + max(self.left, 0))

    def to_arguments(self, number: int, report: LeaseReport) -> list[Any]:
        return [self.window.value, self.holder, self.maximum, number, *report]


class ExchangeLock:
    """A lock for the exchanges with Redis about one tenant's leases: one runs at a time, and at its end all waiting
    requests continue at once.

    `asyncio.Lock` would wake one request in each turn of the event loop. Under load a turn takes milliseconds, so the
    last of hundreds of requests would wait for seconds.
    """

    def __init__(self) -> None:
        self._free = asyncio.Event()
        self._free.set()

    @property
    def is_locked(self) -> bool:
        return not self._free.is_set()

    async def wait(self) -> None:
        """Waits until the current exchange has ended, without taking the lock. Another exchange may be running on
        return.
        """
        await self._free.wait()

    async def __aenter__(self) -> None:
        while self.is_locked:
            await self.wait()
        self._free.clear()

    async def __aexit__(self, *error: object) -> None:
        self._free.set()
