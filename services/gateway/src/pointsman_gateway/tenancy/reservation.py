"""What one request holds of its key's limits, from its admission to its end."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from pointsman_servicekit.keys.records import nanodollars, picodollars

from pointsman_gateway.domain import Usage
from pointsman_gateway.tenancy import errors
from pointsman_gateway.tenancy.lease_store import Needs
from pointsman_gateway.tenancy.leases import LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, KeyUsage, LeasedLimits, LimitSet, TenantLimits
from pointsman_gateway.tenancy.usage import UsageWriter

MAX_TRIES = 20
"""Times that others may take what was just leased for a request."""


_OF_REQUESTS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
_OF_TOKENS = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")


class Desk(Protocol):
    """Whom a hold asks where it cannot help itself."""

    clock: Clock
    tallies: UsageWriter

    def wake(self) -> None:
        """Slices run low."""
        ...

    def refuse(self, account: LeasedLimit, need: int, now: float) -> None:
        """Raises ResourceExhausted where it is sure already that the account does not have that."""
        ...

    async def lease(self, purse: TenantLimits, needs: Needs) -> None:
        """Asks Redis for it. Raises ResourceExhausted where Redis is away, and there is not as much here."""
        ...


class Reservation:
    __slots__ = ("_afforded_at", "_at", "_book", "_desk", "_nano", "_open", "_tokens", "_ways")

    def __init__(self, desk: Desk, book: KeyUsage, tokens: int, now: float) -> None:
        self._desk, self._book, self._ways = desk, book, book.ways
        self._tokens, self._nano = tokens, 0
        self._at = self._afforded_at = now
        self._open = True

    def afford_now(self, usd: float) -> bool:
        """Reserves dollars, beside those reserved before; False where `afford` is to be asked. Raises ResourceExhausted
        where they are refused for sure."""
        dollars = self._ways.dollars
        nano = nanodollars(usd) if dollars else 0
        if not nano:
            return True  # what costs nothing is open where a budget is spent, too
        now = self._desk.clock.monotonic()
        for account in dollars:
            if account.free < nano or now >= account.until:
                self._desk.refuse(account, nano, now)
                return False
        for account in dollars:
            account.free -= nano
            if account.free < account.low:
                self._desk.wake()
        if not self._nano:
            self._afforded_at = now
        self._nano += nano
        return True

    async def afford(self, usd: float) -> None:
        """Raises ResourceExhausted."""
        needs = dict.fromkeys(self._ways.dollars, (nanodollars(usd), 0))
        for _ in range(MAX_TRIES):
            if self.afford_now(usd):
                return
            await self._desk.lease(self._book.purse, needs)
        raise errors.contended()

    def settle(self, usage: Usage, usd: float, outcome: str) -> None:
        """However the request ended: gives back what was not used, and charges what was used beyond.

        What is over goes to the present window; what is left comes back only in the window that it was taken from.
        """
        if not self._open:
            return
        self._open = False
        ways, book, desk = self._ways, self._book, self._desk
        book.in_flight -= 1
        for account in ways.streams:
            account.free += 1
        over = usage.prompt_tokens + usage.completion_tokens - self._tokens
        for account in ways.tokens:
            if over > 0:
                account.charge(over, desk.clock.monotonic())
            elif account.began <= self._at:
                account.free -= over
        pico = picodollars(usd)
        if ways.dollars:
            self._settle_dollars(-(-pico // 1000) - self._nano)
        desk.tallies.count(book, usage, pico, outcome)

    @property
    def headers(self) -> Mapping[str, str]:
        """OpenAI's x-ratelimit-*, as the limits stand now."""
        return headers_of(self._ways, self._desk.clock.monotonic())

    def _settle_dollars(self, over: int) -> None:
        for account in self._ways.dollars:
            if over > 0:
                account.charge(over, self._desk.clock.monotonic())
            elif account.began <= self._afforded_at:
                account.free -= over


def headers_of(ways: LimitSet, now: float) -> dict[str, str]:
    headers: dict[str, str] = {}
    if ways.requests:
        _add_headers(headers, _OF_REQUESTS, ways.requests, now)
    if ways.tokens:
        _add_headers(headers, _OF_TOKENS, ways.tokens, now)
    return headers


def _add_headers(headers: dict[str, str], names: tuple[str, str, str], accounts: LeasedLimits, now: float) -> None:
    tightest = accounts[0] if len(accounts) == 1 else min(accounts, key=LeasedLimit.remaining)
    limit, remaining, reset = names
    headers[limit] = str(tightest.most)
    headers[remaining] = str(tightest.remaining())
    headers[reset] = to_duration(max(0.0, tightest.ends - now))


def to_duration(seconds: float) -> str:
    """ "250ms", "12s", "6m0s"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    return _minutes_and_seconds(round(seconds))


@lru_cache(maxsize=128)
def _minutes_and_seconds(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
