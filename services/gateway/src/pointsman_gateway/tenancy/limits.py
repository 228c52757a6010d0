"""The clocks that tenancy goes by."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import KeyRecord, Limits, TenantRecord, nanodollars
from pointsman_servicekit.keys.redis_layout import WHOLE_TENANT, WINDOWS

from pointsman_gateway.domain import Caller
from pointsman_gateway.tenancy.leases import ExchangeLock, LeasedLimit


@dataclass(frozen=True, slots=True)
class Clock:
    monotonic: Callable[[], float] = time.monotonic
    """Seconds; what is leased is timed by it."""
    wall: Callable[[], float] = time.time
    """Unix seconds; for the expiry of keys and the day of what is used."""
    ahead_ms: Callable[[], int] = lambda: 0
    """How much later than its own clock says Redis should take it to be; 0 but where a test lets time pass."""


LeasedLimits = tuple[LeasedLimit, ...]


@dataclass(frozen=True, slots=True)
class LimitSet:
    """Where a request takes from; a request settles with those that it began with, whatever limits come meanwhile."""

    requests: LeasedLimits
    streams: LeasedLimits
    tokens: LeasedLimits
    dollars: LeasedLimits
    ones: LeasedLimits
    """Requests and streams: of each a request takes one."""
    all: LeasedLimits


@dataclass(slots=True)
class UsageCounters:
    """What a key's requests have used since this was last collected."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    picodollars: int = 0


class TenantLimits:
    """A tenant's accounts, and those of its keys; one speaks to Redis about them at a time."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.speaking = ExchangeLock()
        self.accounts: dict[tuple[str, str], LeasedLimit] = {}
        """By whose it is, and which limit."""
        self.books: set[str] = set()


class KeyUsage:
    """What is known of one key's spending."""

    __slots__ = ("forgotten", "in_flight", "key", "lively", "purse", "tally", "waiting", "waiting_tokens", "ways")

    def __init__(self, key: str, purse: TenantLimits, ways: LimitSet) -> None:
        self.key, self.purse, self.ways = key, purse, ways
        self.tally = UsageCounters()
        self.lively = False
        """Whether Redis is to hear of it."""
        self.forgotten = False
        self.in_flight = 0
        self.waiting = self.waiting_tokens = 0


@dataclass(frozen=True, slots=True)
class VerifiedCaller(Caller):
    """A caller whose key was verified."""

    book: KeyUsage = field(kw_only=True, repr=False, compare=False)


class LimitRegistry:
    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._numbers = count(1)
        self.purses: dict[str, TenantLimits] = {}
        self.books: dict[str, KeyUsage] = {}
        self.lively: set[KeyUsage] = set()

    def open(self, key: KeyRecord, tenant: TenantRecord) -> KeyUsage:
        """The key's book, with the limits of now."""
        purse = self.purses.get(key.tenant)
        if purse is None:
            purse = self.purses[key.tenant] = TenantLimits(key.tenant)
        ways = self._ways(purse, key, tenant)
        book = self.books.get(key.id)
        if book is None:
            book = self.books[key.id] = KeyUsage(key.id, purse, ways)
            purse.books.add(key.id)
        book.ways, book.forgotten = ways, False
        return book

    def forget(self, key: str) -> None:
        """The key is not cached any more; its book goes once Redis knows all that is in it."""
        book = self.books.get(key)
        if book is not None:
            book.forgotten = True
            if not book.lively:
                self._drop(book)

    def enliven(self, book: KeyUsage) -> None:
        book.lively = True
        self.lively.add(book)

    def calm(self, book: KeyUsage) -> None:
        book.lively = False
        self.lively.discard(book)
        if book.forgotten:
            self._drop(book)

    def _drop(self, book: KeyUsage) -> None:
        if self.books.get(book.key) is not book:
            return  # it has gone already, and a request came that had been identified before
        del self.books[book.key]
        purse = book.purse
        purse.books.discard(book.key)
        for whose, limit in [name for name in purse.accounts if name[0] == book.key]:
            del purse.accounts[whose, limit]
        if not purse.books:
            del self.purses[purse.tenant]

    def _ways(self, purse: TenantLimits, key: KeyRecord, tenant: TenantRecord) -> LimitSet:
        own, shared = self._accounts(purse, key.id, key.limits), self._accounts(purse, WHOLE_TENANT, tenant.limits)

        def of(*limits: str) -> LeasedLimits:
            return tuple(accounts[limit] for limit in limits for accounts in (own, shared) if limit in accounts)

        requests, streams = of("requests_per_minute"), of("concurrent_streams")
        tokens, dollars = of("tokens_per_minute"), of("dollars_per_day", "dollars_per_month")
        ones = requests + streams
        return LimitSet(requests, streams, tokens, dollars, ones, ones + tokens + dollars)

    def _accounts(self, purse: TenantLimits, whose: str, limits: Limits) -> dict[str, LeasedLimit]:
        found = {}
        for limit in WINDOWS:
            most = getattr(limits, limit)
            if most is None:
                continue
            most = nanodollars(most) if limit.startswith("dollars") else most
            account = purse.accounts.get((whose, limit))
            if account is None:
                holder = f"{self._gateway}.{next(self._numbers)}"
                name = redis_layout.limit_key(purse.tenant, whose, limit)
                account = purse.accounts[whose, limit] = LeasedLimit(name, limit, most, holder)
            account.most = most
            found[limit] = account
        return found
