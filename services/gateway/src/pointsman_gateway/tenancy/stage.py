"""The stage: who asks, and whether their limits hold; docs/keys.md states the bounds.

In each window of each limit, over all gateways,

    spent  <=  limit + in_flight + sum over g of max(slice(g), share(g))

* in_flight: what answers took beyond their estimates, of requests that were in flight when a gateway let the last one
  into the window. Nothing else while Redis is up: the sum of all slices is within the limit.
* g: the gateways that lost Redis, or were killed, in the window; slice(g) is what g held then, and share(g) the limit
  divided by the number of gateways that g knew of, rounded down. For dollars there is no share.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys.key_store import KeyStore

from pointsman_gateway.domain import ANONYMOUS, Caller, Usage
from pointsman_gateway.tenancy import errors
from pointsman_gateway.tenancy.keys import KeyCacheConfig, VerifiedKeys
from pointsman_gateway.tenancy.lease_store import LeaseStore, Needs
from pointsman_gateway.tenancy.leases import LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, KeyUsage, LeasedLimits, LimitRegistry, TenantLimits, VerifiedCaller
from pointsman_gateway.tenancy.metrics import TenancyMetrics
from pointsman_gateway.tenancy.reservation import MAX_TRIES, Reservation, headers_of
from pointsman_gateway.tenancy.tasks import BackgroundTasks
from pointsman_gateway.tenancy.usage import UsageWriter

log = logging.getLogger(__name__)

_NOW = Clock()
_COPIES = KeyCacheConfig()


class Tenancy:
    """Implements a hold's `Desk`."""

    def __init__(
        self, redis: BoundedRedis, metrics: TenancyMetrics, copies: KeyCacheConfig = _COPIES, clock: Clock = _NOW
    ) -> None:
        self.clock = clock
        self._metrics = metrics
        self._ledger = LeaseStore(redis, clock, metrics)
        self._books = LimitRegistry(self._ledger.gateway)
        self.tallies = UsageWriter(redis, clock, self._ledger.gateway)
        self._identities = VerifiedKeys(KeyStore(redis, clock.wall), self._books, clock, metrics, copies)
        self.upkeep = BackgroundTasks(self._ledger, self._books, self.tallies, self._identities, metrics)
        self._redis = redis
        self._monotonic = clock.monotonic
        self.wake = self.upkeep.wake

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the length of the block: slices are refilled, usage is written, revocations are heard of."""
        log.info("keys are on: each request must show one")
        async with self.upkeep.running(self._redis, self.clock):
            yield

    def identify_now(self, credential: str) -> Caller | None:
        """By a verified copy; None where `identify` is to be asked."""
        return self._identities.identify_now(credential)

    async def identify(self, credential: str) -> Caller:
        """Raises Unauthenticated ("missing_key", "unknown_key", "revoked_key", "expired_key"); and Unavailable
        ("keys_unavailable") while Redis is away and the key is not known here."""
        return await self._identities.identify(credential)

    def enter_now(self, caller: Caller, tokens: int) -> Reservation | None:
        """Takes a request, a stream and `tokens` from the local slices; None where `enter` is to be asked.

        Raises ResourceExhausted where it is refused for sure. `caller` is one that was identified here.
        """
        assert isinstance(caller, VerifiedCaller)
        book = caller.book
        ways = book.ways
        now = self._monotonic()
        for account in ways.ones:
            if account.free < 1 or now >= account.until:
                self.refuse(account, 1, now)
                return None
        for account in ways.tokens:
            if account.free < tokens or now >= account.until:
                self.refuse(account, tokens, now)
                return None
        low = False
        for account in ways.ones:
            account.free -= 1
            low = low or account.free < account.low
        for account in ways.tokens:
            account.free -= tokens
            low = low or account.free < account.low
        book.in_flight += 1
        if not book.lively:
            self._books.enliven(book)
        if low:
            self.wake()
        return Reservation(self, book, tokens, now)

    async def enter(self, caller: Caller, tokens: int) -> Reservation:
        """Raises ResourceExhausted: its code is the limit's name, `retry_after` when it will be worth trying."""
        assert isinstance(caller, VerifiedCaller)
        book = caller.book
        book.waiting += 1
        book.waiting_tokens += tokens
        try:
            for _ in range(MAX_TRIES):
                hold = self.enter_now(caller, tokens)
                if hold is not None:
                    return hold
                await self.lease(book.purse, _needs(book, tokens), book.ways.dollars)
            raise errors.contended()
        finally:
            book.waiting -= 1
            book.waiting_tokens -= tokens

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """OpenAI's x-ratelimit-*, for one who was refused."""
        assert isinstance(caller, VerifiedCaller)
        return headers_of(caller.book.ways, self._monotonic())

    def refuse(self, account: LeasedLimit, need: int, now: float) -> None:
        if account.is_refused(need, now):
            self._refuse(account, need, now, alone=False)

    async def lease(self, purse: TenantLimits, needs: Needs, next_needed: LeasedLimits = ()) -> None:
        """`next_needed` are asked about in the same exchange, where nothing is held of them."""
        while (short := self._short(needs)) and purse.speaking.under_way:
            await purse.speaking.over()
        if not short:
            return  # somebody else has asked meanwhile
        async with purse.speaking:
            try:
                await self._ledger.exchange({**self._run_out(next_needed), **short})
            except Unavailable:
                self._ledger.go_on_alone(list(short))
                for account, (need, _) in short.items():
                    if account.free < need:
                        self._refuse(account, need, self._monotonic(), alone=True)

    def _short(self, needs: Needs) -> Needs:
        """Of these, what there is too little of here."""
        now = self._monotonic()
        return {account: need for account, need in needs.items() if account.free < need[0] or now >= account.until}

    def _run_out(self, accounts: LeasedLimits) -> Needs:
        now = self._monotonic()
        return {account: (0, 1) for account in accounts if now >= account.until}

    def _refuse(self, account: LeasedLimit, need: int, now: float, alone: bool) -> None:
        self._metrics.refusals.labels(account.limit).inc()
        raise errors.exhausted(account, need, now, alone)


def _needs(book: KeyUsage, tokens: int) -> Needs:
    ways = book.ways
    return {
        **dict.fromkeys(ways.ones, (1, book.waiting)),
        **dict.fromkeys(ways.tokens, (tokens, book.waiting_tokens)),
    }


_NO_HEADERS: Mapping[str, str] = {}


class NullReservation:
    """Holds nothing."""

    __slots__ = ()
    headers = _NO_HEADERS

    def afford_now(self, usd: float) -> bool:
        return True

    async def afford(self, usd: float) -> None:
        pass

    def settle(self, usage: Usage, usd: float, outcome: str) -> None:
        pass


_NULL_RESERVATION = NullReservation()


class OpenAccess:
    """Stands where `Tenancy` stands."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        log.warning("keys are off: whoever reaches this gateway may use all of it")
        yield

    def identify_now(self, credential: str) -> Caller | None:
        return ANONYMOUS

    async def identify(self, credential: str) -> Caller:
        return ANONYMOUS

    def enter_now(self, caller: Caller, tokens: int) -> NullReservation | None:
        return _NULL_RESERVATION

    async def enter(self, caller: Caller, tokens: int) -> NullReservation:
        return _NULL_RESERVATION

    def headers(self, caller: Caller) -> Mapping[str, str]:
        return _NO_HEADERS
