"""Identifies callers and enforces their limits over all gateways; docs/keys.md says how exact the limits are.

While Redis is available, the leases of all gateways together are within the limit. The usage in a window then exceeds
the limit only by the amounts that answers in progress use beyond their reservations. A gateway that loses Redis, or is
killed, may add the lease that it held or its share of the limit, whichever is more. The share is the limit divided by
the number of gateways; limits in dollars have none.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.keys.redis_layout import WINDOWS
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.domain import ANONYMOUS, Caller, Usage
from pointsman_gateway.tenancy.keys import KeyCacheConfig, VerifiedKeys
from pointsman_gateway.tenancy.lease_store import LeaseStore, Needs
from pointsman_gateway.tenancy.leases import LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, KeyUsage, LeasedLimits, LimitRegistry, TenantLimits, VerifiedCaller
from pointsman_gateway.tenancy.metrics import TenancyMetrics
from pointsman_gateway.tenancy.reservation import MAX_TRIES, LeasedReservation, contended, exhausted, headers_of
from pointsman_gateway.tenancy.tasks import TenancyTasks
from pointsman_gateway.tenancy.usage_writer import UsageWriter

if TYPE_CHECKING:
    from pointsman_gateway.config.access_file import SingleSignOnConfig
    from pointsman_gateway.tenancy.tokens import SingleSignOn

log = logging.getLogger(__name__)

ISSUER_CHECK_INTERVAL_SECONDS = 1.0
"""Seconds between two checks of whether the issuer's keys are due to be read."""

_SYSTEM_CLOCK = Clock()
_DEFAULT_CACHE = KeyCacheConfig()

_NO_HEADERS: Mapping[str, str] = {}


class RedisTenancy:
    """Identifies callers and enforces their limits with Redis; implements the gateway's interface `Tenancy`, and
    `Leasing`.
    """

    def __init__(
        self,
        redis: BoundedRedis,
        metrics: TenancyMetrics,
        cache: KeyCacheConfig = _DEFAULT_CACHE,
        clock: Clock = _SYSTEM_CLOCK,
        watching: BoundedRedis | None = None,
    ) -> None:
        """Takes the Redis client for requests (`redis`) and, as `watching`, one with a longer timeout
        (`POLL_TIMEOUT_SECONDS`). The second one polls for changed keys if the first one does not answer in time.
        """
        self.clock = clock
        self._metrics = metrics
        self._leases = LeaseStore(redis, clock, metrics)
        self._limits = LimitRegistry(self._leases.gateway, self._leases.nearly_spent)
        for limit in (name for name in WINDOWS if name.startswith("dollars")):
            for owner in ("key", "tenant"):
                metrics.budget_warnings.labels(limit, owner)
                count = partial(self._limits.count_nearly_spent, limit, owner, clock.monotonic)
                metrics.nearly_spent.labels(limit, owner).set_function(count)
        self.usage = UsageWriter(redis, clock, self._leases.gateway)
        self._keys = VerifiedKeys(KeyStore(redis, clock.wall), self._limits, clock, metrics, cache)
        connections = [redis, watching] if watching else [redis]
        self.tasks = TenancyTasks(self._leases, self._limits, self.usage, self._keys, connections)
        self._monotonic = clock.monotonic
        self.renew = self.tasks.wake
        self._single_sign_on: SingleSignOn | None = None

    @property
    def single_sign_on(self) -> "SingleSignOn | None":
        return self._single_sign_on

    def use_single_sign_on(self, config: "SingleSignOnConfig | None", client_secret: str = "") -> None:
        """Sets the OpenID Connect issuer whose tokens are accepted, and drops all tokens verified so far; with None, no
        tokens are accepted.

        `client_secret` is the secret of the client for the console's login; empty for a client without one. Does
        nothing if `config` is unchanged.
        """
        if config == (self._single_sign_on and self._single_sign_on.config):
            return
        if config is None:
            self._single_sign_on = None
        else:
            # PyJWT and httpx are loaded only with single sign-on.
            from pointsman_gateway.tenancy.issuer import Issuer
            from pointsman_gateway.tenancy.tokens import SingleSignOn

            issuer = Issuer(config, self.clock.monotonic, self._keys.drop_tokens)
            self._single_sign_on = SingleSignOn(config, issuer, client_secret)
        self._keys.tokens = self._single_sign_on
        self._keys.drop_tokens()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Renews leases, writes usage, applies revocations and reads the issuer's keys in the background during the
        block.
        """
        log.info("keys are on: every request needs one")
        schedule = Schedule(ISSUER_CHECK_INTERVAL_SECONDS)
        async with (
            self.tasks.running(self.clock),
            running_periodically(self._refresh_issuer, schedule, "read the issuer's keys"),
        ):
            yield

    async def _refresh_issuer(self) -> None:
        if self._single_sign_on is not None:
            await self._single_sign_on.issuer.refresh_if_due()

    def identify_now(self, credential: str) -> Caller | None:
        """Returns the caller of an API key or token from memory; None if `identify` has to be awaited instead."""
        return self._keys.identify_now(credential)

    async def identify(self, credential: str) -> Caller:
        """Returns the caller that a key or token identifies.

        Raises Unauthenticated ("missing_key", "unknown_key", "revoked_key", "expired_key", and the codes for tokens),
        PermissionDenied ("no_grant", "bad_tenant"), and Unavailable ("keys_unavailable", "issuer_unavailable",
        "too_many_unknown_keys").
        """
        return await self._keys.identify(credential)

    def enter_now(self, caller: Caller, tokens: int) -> LeasedReservation | None:
        """Reserves one request, one stream and `tokens` from the amounts that Redis has granted to this gateway.

        Returns None if these do not suffice: then await `enter`, which asks Redis for more. Raises ResourceExhausted
        if it is known that too little is left of a limit. `caller` must come from `identify` or `identify_now`.
        """
        assert isinstance(caller, VerifiedCaller)
        usage = caller.usage
        limits = usage.limits
        now = self._monotonic()
        for limit in limits.units:
            if limit.free < 1 or now >= limit.until:
                self.check_refusal(limit, 1, now)
                return None
        for limit in limits.tokens:
            if limit.free < tokens or now >= limit.until:
                self.check_refusal(limit, tokens, now)
                return None
        low = False
        for limit in limits.units:
            limit.free -= 1
            low = low or limit.free < limit.low
        for limit in limits.tokens:
            limit.free -= tokens
            low = low or limit.free < limit.low
        usage.in_flight += 1
        if not usage.is_dirty:
            self._limits.mark_dirty(usage)
        if low:
            self.renew()
        return LeasedReservation(self, usage, tokens, now)

    async def enter(self, caller: Caller, tokens: int) -> LeasedReservation:
        """Reserves one request, one stream and `tokens` of the caller's limits, and leases more from Redis if
        necessary.

        Raises ResourceExhausted, whose code is the limit's name, if too little is left. Raises Unavailable
        ("limits_contended") if `MAX_TRIES` times in a row other requests have taken the leased amount first.
        """
        assert isinstance(caller, VerifiedCaller)
        usage = caller.usage
        usage.waiting += 1
        usage.waiting_tokens += tokens
        try:
            for _ in range(MAX_TRIES):
                reservation = self.enter_now(caller, tokens)
                if reservation is not None:
                    return reservation
                await self.lease(usage.tenant, _needs(usage, tokens), usage.limits.dollars)
            raise contended()
        finally:
            usage.waiting -= 1
            usage.waiting_tokens -= tokens

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """Returns OpenAI's `x-ratelimit-*` response headers with the amounts that are left of the caller's
        limits now.
        """
        assert isinstance(caller, VerifiedCaller)
        return headers_of(caller.usage.limits, self._monotonic())

    def check_refusal(self, limit: LeasedLimit, need: int, now: float) -> None:
        if limit.is_refused(need, now):
            self._refuse(limit, need, now, without_redis=False)

    async def lease(self, tenant: TenantLimits, needs: Needs, next_needed: LeasedLimits = ()) -> None:
        """Asks Redis to lease the amounts in `needs`, of which it may grant less; does nothing if this gateway
        already holds enough.

        The same call renews expired leases of the limits in `next_needed`. Raises ResourceExhausted if Redis is
        unavailable and the amounts usable without it do not suffice.
        """
        while (short := self._short(needs)) and tenant.exchange_lock.is_locked:
            await tenant.exchange_lock.wait()
        if not short:
            return  # another request's exchange has brought enough
        async with tenant.exchange_lock:
            try:
                await self._leases.exchange({**self._expired(next_needed), **short})
            except Unavailable:
                self._leases.use_local_fallback(list(short))
                for limit, (need, _) in short.items():
                    if limit.free < need:
                        self._refuse(limit, need, self._monotonic(), without_redis=True)

    def _short(self, needs: Needs) -> Needs:
        """Returns the needs that the leases do not cover."""
        now = self._monotonic()
        return {limit: need for limit, need in needs.items() if limit.free < need[0] or now >= limit.until}

    def _expired(self, limits: LeasedLimits) -> Needs:
        now = self._monotonic()
        return {limit: (0, 1) for limit in limits if now >= limit.until}

    def _refuse(self, limit: LeasedLimit, need: int, now: float, without_redis: bool) -> None:
        self._metrics.rejected.labels(limit.limit).inc()
        raise exhausted(limit, need, now, without_redis)


def _needs(usage: KeyUsage, tokens: int) -> Needs:
    limits = usage.limits
    return {
        **dict.fromkeys(limits.units, (1, usage.waiting)),
        **dict.fromkeys(limits.tokens, (tokens, usage.waiting_tokens)),
    }


class NullReservation:
    """The `Reservation` of a request to which no limits apply: it allows every cost and records nothing."""

    __slots__ = ()
    headers = _NO_HEADERS
    has_budget = False

    def afford_now(self, usd: float | None) -> bool:
        return True

    async def afford(self, usd: float | None) -> None:
        pass

    def settle(self, usage: Usage, usd: float | None, outcome: str) -> None:
        pass


_NULL_RESERVATION = NullReservation()


class OpenAccess:
    """The `Tenancy` if authentication is off: every caller is anonymous and has no limits."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        log.warning("keys are off: everyone who reaches this gateway may use all of it")
        yield

    single_sign_on = None

    def use_single_sign_on(self, config: "SingleSignOnConfig | None", client_secret: str = "") -> None:
        if config is not None:
            log.warning("access.yaml has single sign-on, which has no effect: authentication is off")

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
