"""One limit of a key or a tenant, as one gateway holds a slice of it.

All numbers are whole: requests, tokens, streams or nanodollars. `free` is what may still be taken of the slice; it goes
below 0 where answers took more than had been reserved. `held - free` is what is used of the window. What all gateways
together have beyond the limit is taken from what each holds: what comes back of a reservation pays that first.
"""

import asyncio
from math import inf
from types import TracebackType
from typing import Any

from pointsman_servicekit.keys.redis_layout import WINDOWS, Window, window_at

LeaseReport = tuple[int, int, int, int, int]
"""Window, used, carried, wish and need."""

LEASE_S = 10.0
"""Seconds that a slice is held without a word; then others may have what is not used of it."""
REPORT_INTERVAL_S = 0.5
"""Seconds within which Redis hears of what was used."""
REFUSAL_TTL_S = 0.1
"""Seconds for which an answer "there is nothing left" holds, so that Redis is not asked again for each refusal."""
FALLBACK_TTL_S = 1.0
"""Seconds that a gateway goes on by itself before it tries Redis again."""
FIRST_LEASE_DIVISOR = 16
"""Who waits is not alone for long: that part of the limit is asked for with what it needs, where there is as much."""
_MIN_MEASUREMENT_S = {Window.MINUTE: 0.1, Window.DAY: 10.0, Window.MONTH: 10.0}
"""Seconds; what was used within less says little about the rate."""
_LEASE_AHEAD_S = {Window.MINUTE: 2.0, Window.DAY: 900.0, Window.MONTH: 900.0}
"""Seconds of use at the present rate that a gateway wishes to hold. In a minute without Redis it has a share of its
own; dollars it spends only out of what it holds, and so wishes to hold them for as long as verified keys are good."""
_HALF_LIFE_S = {Window.NOW: 1.0, Window.MINUTE: 2.0, Window.DAY: 60.0, Window.MONTH: 60.0}
"""Seconds in which what is known of a rate, or of how many were at once, loses half of its weight."""


class LeasedLimit:
    """What enters and settles reads and writes `free` directly: calls would be most of the cost."""

    __slots__ = (
        "_measured",
        "_rate",
        "_reported",
        "_synced",
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
        "most",
        "name",
        "refused_need",
        "refused_until",
        "unspent",
        "until",
        "window",
        "window_number",
    )

    def __init__(self, name: str, limit: str, most: int, holder: str) -> None:
        self.name, self.limit, self.most, self.holder = name, limit, most, holder
        """What it is called in Redis, the limit's name, how much it is, and who holds this slice."""
        self.window = WINDOWS[limit]
        self.window_number = 0 if self.window is Window.NOW else -1
        self.held = self.free = self.carried = 0
        """`carried` was used after the window's end, and belongs to the next."""
        self.began = self.until = -inf
        """Local time from which, and to which, the slice is good."""
        self.ends = inf if self.window is Window.NOW else -inf
        """Local time at which the window is over, a little early."""
        self.low = 0
        self.closing = False
        """Whether nothing more is wished for."""
        self.left = self.unspent = most
        """What nobody holds, and what nobody has used, as Redis last said."""
        self.refused_until, self.refused_need = -inf, 0
        self._rate = 0.0
        self._measured = self._synced = -inf
        self._used_before = self._reported = 0

    @property
    def used(self) -> int:
        return self.held - self.free

    def charge(self, amount: int, now: float) -> None:
        """Takes it, whether it is there or not; of the present window."""
        if now >= self.ends:
            self.carried += amount
        else:
            self.free -= amount

    def is_refused(self, need: int, now: float) -> bool:
        """Whether it is sure, without asking."""
        return need > self.most or (now < self.refused_until and need >= self.refused_need)

    # -- what is said to Redis, and what it says

    def ask(self, need: int, waiting: int, gateways: int, now: float) -> LeaseReport:
        """What to say to Redis; from now on no more is held than is wished."""
        spare = max(self.free, 0)
        fair = (self.left + spare) // (2 * gateways)
        first = self.most // FIRST_LEASE_DIVISOR if waiting else 0
        wish = max(need, min(max(self._wish(now), waiting, first), fair))
        if spare > wish:
            self.held -= spare - wish
            self.free = wish
        self.low = 0
        self._synced = now
        return self.window_number, self.used, self.carried, wish, need

    def install(self, answer: list[int], said: LeaseReport, sent: float, now: float) -> None:
        """`answer` is the window, milliseconds to its end, held, left and unspent."""
        window, ends_in, held, self.left, self.unspent = answer
        if window == self.window_number:
            used, self._reported = self.used + self.carried, said[1] + said[2]
        else:
            used, self._reported = self.carried, said[2]
            self.window_number, self.began, self._used_before = window, now, 0
        held += min(self.left, 0)
        self.carried, self.held, self.free = 0, held, held - used
        if self.window is not Window.NOW:
            self.ends = sent + ends_in / 1000
        self.until = min(sent + LEASE_S, self.ends)
        self.low = self.free // 2 if self.free > 0 else self.free
        if held - self._reported < said[4]:
            self.refused_until, self.refused_need = min(now + REFUSAL_TTL_S, self.ends), said[4]

    def go_on_alone(self, redis_ms: int, gateways: int, now: float) -> None:
        """Redis is away: goes on with the slice; with its share of the limit, where that is more.

        Dollars have no share: what is not spent of the slice is all there is, in the next window too.
        """
        share = 0 if self.window in (Window.DAY, Window.MONTH) else self.most // gateways
        if now >= self.ends:
            number, ends_ms = window_at(self.window, redis_ms)
            if number != self.window_number:
                slice_ = share or max(self.free, 0)
                self.window_number, self.began = number, now
                self.held, self.free, self.carried = slice_, slice_ - self.carried, 0
                self._used_before = self._reported = 0
            self.ends = now + (ends_ms - redis_ms) / 1000
        if share > self.held:
            self.free += share - self.held
            self.held = share
        self.until = min(now + FALLBACK_TTL_S, self.ends)
        self.low = 0

    # -- when to speak to Redis

    def is_due(self, now: float) -> bool:
        if self.closing:
            return not self.is_quiet
        if self.free < self.low:
            return True
        if now < self._synced + REPORT_INTERVAL_S:
            return False
        if now >= self.until and self._wish(now) > 0:
            return True
        if self.used != self._reported or self.carried or max(self.free, 0) > self._wish(now):
            return True
        return self._is_leased and now > self._synced + LEASE_S / 3

    @property
    def is_quiet(self) -> bool:
        """Whether Redis knows all, and nothing is held."""
        return not (self._is_leased or self.carried or self.used != self._reported)

    @property
    def _is_leased(self) -> bool:
        return self.free > 0 or (self.window is Window.NOW and self.used > 0)

    def _wish(self, now: float) -> int:
        """How much more than what is used it would be well to hold."""
        if self.closing:
            return 0
        elapsed = now - self._measured
        if self.window is Window.NOW:
            # As many at once as of late, and half as many again: how many there are at this moment says little.
            self._rate = max(self.used, self._rate * 0.5 ** (elapsed / _HALF_LIFE_S[self.window]))
            self._measured = now
            return int(self._rate * 1.5) + 2 - self.used if self._rate >= 1 else 0
        rate = max(self.used - self._used_before, 0) / max(elapsed, _MIN_MEASUREMENT_S[self.window])
        if elapsed >= _MIN_MEASUREMENT_S[self.window]:
            self._rate *= 0.5 ** (elapsed / _HALF_LIFE_S[self.window])
            self._rate = max(rate, self._rate)
            self._measured, self._used_before = now, self.used
        return int(max(rate, self._rate) * _LEASE_AHEAD_S[self.window])

    def remaining(self) -> int:
        return max(0, self.free + max(self.left, 0))

    def to_arguments(self, number: int, said: LeaseReport) -> list[Any]:
        return [self.window.value, self.holder, self.most, number, *said]


class ExchangeLock:
    """A block in which nobody else speaks.

    No `asyncio.Lock`: that lets in one with each turn of the event loop. Under load a turn takes milliseconds, and of
    hundreds of requests that wait for one slice the last would go on seconds after it has come.
    """

    def __init__(self) -> None:
        self._silent = asyncio.Event()
        self._silent.set()

    @property
    def under_way(self) -> bool:
        return not self._silent.is_set()

    async def over(self) -> None:
        """Waits until who speaks now is done; another may have begun by then."""
        await self._silent.wait()

    async def __aenter__(self) -> None:
        while self.under_way:
            await self.over()
        self._silent.clear()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._silent.set()
