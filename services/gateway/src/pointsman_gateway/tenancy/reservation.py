"""Reservations: each holds the amounts that one admitted request may use of the limits of its key and tenant, until the
request ends.

A reservation takes the request's estimated use from the gateway's leases (the parts of the limits that Redis has
granted to it). At the end, the actual use replaces the estimate. Also creates the errors for limits that are reached.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Protocol

from pointsman_servicekit.errors import ResourceExhausted, Unavailable
from pointsman_servicekit.keys.administration import BUDGET_WARNING_SHARE
from pointsman_servicekit.keys.records import NANO, nanodollars, picodollars
from pointsman_servicekit.keys.redis_layout import Window

from pointsman_gateway.domain import Usage
from pointsman_gateway.tenancy.lease_store import Needs
from pointsman_gateway.tenancy.leases import LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, KeyUsage, LeasedLimits, LimitSet, TenantLimits
from pointsman_gateway.tenancy.usage_writer import UsageWriter

MAX_TRIES = 20
"""Maximum number of times that one request asks Redis for a lease; other requests may take the leased amount first."""
RETRY_AFTER_SECONDS = 1.0
"""The `retry_after` of errors for limits that are leased to other gateways, which return unused parts within
this time."""

_REQUEST_HEADERS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
_TOKEN_HEADERS = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")

BUDGET_WARNING = "x-pointsman-budget-warning"

LIMIT_TEXTS = {
    "requests_per_minute": "{} requests a minute",
    "tokens_per_minute": "{} tokens a minute",
    "concurrent_streams": "{} requests at once",
    "dollars_per_day": "{} dollars a day",
    "dollars_per_month": "{} dollars a month",
}


class Leasing(Protocol):
    """Interface of the parts of the tenancy that a reservation uses; `RedisTenancy` implements it."""

    clock: Clock
    usage: UsageWriter

    def renew(self) -> None:
        """Starts to renew leases in the background, because one of them is nearly used up. Returns at once."""
        ...

    def check_refusal(self, limit: LeasedLimit, need: int, now: float) -> None:
        """Raises ResourceExhausted if the limit is known not to have the amount `need` left; `now` is in monotonic
        seconds.
        """
        ...

    async def lease(self, tenant: TenantLimits, needs: Needs) -> None:
        """Asks Redis to lease the amounts in `needs` of the tenant's limits; it may grant less.

        Raises ResourceExhausted if Redis is unavailable and the amounts usable without it do not suffice.
        """
        ...


class LeasedReservation:
    __slots__ = (
        "_dollars_reserved_at",
        "_is_open",
        "_leasing",
        "_limits",
        "_nanodollars",
        "_reserved_at",
        "_tokens",
        "_usage",
    )

    def __init__(self, leasing: Leasing, usage: KeyUsage, tokens: int, now: float) -> None:
        self._leasing, self._usage, self._limits = leasing, usage, usage.limits
        self._tokens, self._nanodollars = tokens, 0
        self._reserved_at = self._dollars_reserved_at = now
        self._is_open = True

    @property
    def has_budget(self) -> bool:
        return bool(self._limits.dollars)

    def afford_now(self, usd: float | None) -> bool:
        """Reserves `usd` dollars more for the request from the budgets' leases; returns False if `afford` has to be
        awaited instead.

        Returns True and reserves nothing if neither key nor tenant has a budget in dollars. If one has, raises
        ResourceExhausted if it is known that too little is left, or if the cost is unknown (`usd` is None).
        """
        dollars = self._limits.dollars
        if usd is None:
            if dollars:
                raise _price_unknown()
            return True
        amount = nanodollars(usd) if dollars else 0
        if not amount:
            return True  # what is free stays available if a budget is spent
        now = self._leasing.clock.monotonic()
        for limit in dollars:
            if limit.free < amount or now >= limit.until:
                self._leasing.check_refusal(limit, amount, now)
                return False
        for limit in dollars:
            limit.free -= amount
            if limit.free < limit.low:
                self._leasing.renew()
        if not self._nanodollars:
            self._dollars_reserved_at = now
        self._nanodollars += amount
        return True

    async def afford(self, usd: float | None) -> None:
        """Reserves `usd` dollars more for the request, and leases them from Redis if necessary.

        Raises ResourceExhausted if a budget is reached, if the cost is unknown (`usd` is None) and there is a
        budget, or if Redis is unavailable and the local lease does not suffice. Raises Unavailable
        ("limits_contended") if other requests take what was leased `MAX_TRIES` times.
        """
        if usd is None:
            self.afford_now(None)
            return
        needs = dict.fromkeys(self._limits.dollars, (nanodollars(usd), 0))
        for _ in range(MAX_TRIES):
            if self.afford_now(usd):
                return
            await self._leasing.lease(self._usage.tenant, needs)
        raise contended()

    def settle(self, usage: Usage, usd: float | None, outcome: str) -> None:
        """Gives back the stream and the unused tokens and dollars at the request's end, charges tokens and dollars that
        were used in excess of the reservation, and counts the usage of the key. Only the first call has an effect.

        The excess counts in the current window; an unused part is returned only in the window from which it was taken.
        If `usd` is None (unknown), all reserved dollars are charged. `outcome` is "ok", "cancelled" or an error's code.
        """
        if not self._is_open:
            return
        self._is_open = False
        limits, leasing = self._limits, self._leasing
        self._usage.in_flight -= 1
        for limit in limits.streams:
            limit.free += 1
        excess = usage.prompt_tokens + usage.completion_tokens - self._tokens
        for limit in limits.tokens:
            if excess > 0:
                limit.charge(excess, leasing.clock.monotonic())
            elif limit.began <= self._reserved_at:
                limit.free -= excess
        pico = picodollars(usd or 0.0)
        if limits.dollars and usd is not None:
            self._settle_dollars(-(-pico // 1000) - self._nanodollars)
        leasing.usage.count(self._usage, usage, pico, outcome)

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns OpenAI's `x-ratelimit-*` response headers with the amounts that are left of the limits now, and a
        header if a budget is nearly spent.
        """
        return headers_of(self._limits, self._leasing.clock.monotonic())

    def _settle_dollars(self, excess: int) -> None:
        for limit in self._limits.dollars:
            if excess > 0:
                limit.charge(excess, self._leasing.clock.monotonic())
            elif limit.began <= self._dollars_reserved_at:
                limit.free -= excess


def headers_of(limits: LimitSet, now: float) -> dict[str, str]:
    """Returns OpenAI's `x-ratelimit-*` response headers, and the header `BUDGET_WARNING` if a budget is nearly
    spent.

    If key and tenant both have a limit of requests or of tokens, the headers show the limit of which less is left.
    `now` is in monotonic seconds.
    """
    headers: dict[str, str] = {}
    if limits.requests:
        _add_headers(headers, _REQUEST_HEADERS, limits.requests, now)
    if limits.tokens:
        _add_headers(headers, _TOKEN_HEADERS, limits.tokens, now)
    if limits.nearly_spent:
        _add_budget_warning(headers, limits, now)
    return headers


def _add_budget_warning(headers: dict[str, str], limits: LimitSet, now: float) -> None:
    shares = {budget: budget.spent_share(now) for budget in limits.dollars if budget in limits.nearly_spent}
    warnings = [
        f"{budget.owner} has used {share:.0%} of {budget.limit}"
        for budget, share in shares.items()
        if share >= BUDGET_WARNING_SHARE
    ]
    if warnings:
        headers[BUDGET_WARNING] = ", ".join(warnings)


def _add_headers(headers: dict[str, str], names: tuple[str, str, str], limits: LeasedLimits, now: float) -> None:
    tightest = limits[0] if len(limits) == 1 else min(limits, key=LeasedLimit.remaining)
    limit, remaining, reset = names
    headers[limit] = str(tightest.maximum)
    headers[remaining] = str(tightest.remaining())
    headers[reset] = to_duration(max(0.0, tightest.ends - now))


def to_duration(seconds: float) -> str:
    """Formats seconds as OpenAI's headers do: "250ms", "12s" or "6m0s". Rounds up, so that a client that waits so
    long does not retry too early.
    """
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    return _minutes_and_seconds(math.ceil(seconds))


@lru_cache(maxsize=128)
def _minutes_and_seconds(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def exhausted(limit: LeasedLimit, need: int, now: float, without_redis: bool) -> ResourceExhausted:
    """Returns the error for a request that exceeds a limit; the error's code is the limit's name.

    `need` is the amount that the request requires. If it exceeds the whole limit, the error has no `retry_after`. `now`
    is on the monotonic clock. `without_redis` says that Redis is unavailable, which the message then mentions.
    """
    allowed = f"this {limit.owner} may have {LIMIT_TEXTS[limit.limit].format(_to_text(limit, limit.maximum))}"
    if need > limit.maximum:
        message = (
            f"{allowed}, and this request alone may need {_to_text(limit, need)}; shorten it, lower max_tokens, or "
            "have the limit raised (`pointsman keys limit`)"
        )
        return ResourceExhausted(message, code=limit.limit)
    retry_after = max(_retry_after(limit, need, now, without_redis), 0.1)
    reason = ", and Redis, which distributes them, is unavailable" if without_redis else ""
    message = f"{allowed}{reason}; try again {_when(limit, retry_after)}"
    return ResourceExhausted(message, code=limit.limit, retry_after=retry_after)


def _price_unknown() -> ResourceExhausted:
    return ResourceExhausted(
        "the budget of this key is in dollars, and the price of the path's model is unknown; use another path",
        code="price_unknown",
    )


def contended() -> Unavailable:
    return Unavailable(
        "too many requests share what is left of a limit", code="limits_contended", retry_after=RETRY_AFTER_SECONDS
    )


def _retry_after(limit: LeasedLimit, need: int, now: float, without_redis: bool) -> float:
    until_end = limit.ends - now
    if without_redis or limit.unspent >= need:
        return min(RETRY_AFTER_SECONDS, until_end)
    return RETRY_AFTER_SECONDS if limit.limit == "concurrent_streams" else until_end


def _when(limit: LeasedLimit, retry_after: float) -> str:
    if limit.is_budget and retry_after > RETRY_AFTER_SECONDS:
        return "at 00:00 UTC" if limit.window is Window.DAY else "on the 1st of the month at 00:00 UTC"
    return f"in {math.ceil(retry_after * 10) / 10} s"


def _to_text(limit: LeasedLimit, amount: int) -> str:
    """Returns the amount as text: nanodollars as dollars with six significant digits, without an exponent."""
    return f"{Decimal(f'{amount / NANO:.6g}'):f}" if limit.limit.startswith("dollars") else f"{amount:,}"
