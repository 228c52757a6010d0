"""The limits that apply to each API key (its own and its tenant's), and the usage of the key's requests."""

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import count

from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.administration import BUDGET_WARNING_SHARE
from pointsman_servicekit.keys.records import KeyRecord, Limits, TenantRecord, nanodollars
from pointsman_servicekit.keys.redis_layout import WHOLE_TENANT, WINDOWS

from pointsman_gateway.domain import Caller
from pointsman_gateway.tenancy.leases import ExchangeLock, LeasedLimit

LeasedLimits = tuple[LeasedLimit, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    monotonic: Callable[[], float] = time.monotonic
    """Returns monotonic seconds, by which leases are timed."""
    wall: Callable[[], float] = time.time
    """Returns Unix seconds, for the expiry of keys and the day of usage."""
    ahead_ms: Callable[[], int] = lambda: 0
    """Returns the milliseconds that scripts in Redis add to the clock of Redis; 0 except in tests that let time
    pass."""


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The limits that apply to the requests of one API key, grouped by unit. A request uses one set from start to end,
    even if limits change.
    """

    requests: LeasedLimits
    streams: LeasedLimits
    tokens: LeasedLimits
    dollars: LeasedLimits
    units: LeasedLimits
    """The limits that count requests, and the limits of concurrent streams; each request takes 1 from each of them."""
    all: LeasedLimits
    nearly_spent: AbstractSet[LeasedLimit]
    """The budgets of all keys in this gateway that are nearly spent (`LeaseStore.nearly_spent`)."""


@dataclass(slots=True)
class UsageCounters:
    """The usage of an API key since the counters were last collected: numbers of requests and tokens, and picodollars
    (1e-12 dollars).
    """

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    picodollars: int = 0


class TenantLimits:
    """The limits of a tenant and of its keys; at most one exchange with Redis about them runs at a time."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.exchange_lock = ExchangeLock()
        self.limits: dict[tuple[str, str], LeasedLimit] = {}
        """The limits by owner (a key's id, or `WHOLE_TENANT`) and by the name of the limit."""
        self.keys: set[str] = set()


class KeyUsage:
    __slots__ = (
        "counters",
        "in_flight",
        "is_dirty",
        "is_forgotten",
        "key",
        "limits",
        "tenant",
        "waiting",
        "waiting_tokens",
    )

    def __init__(self, key: str, tenant: TenantLimits, limits: LimitSet) -> None:
        self.key, self.tenant, self.limits = key, tenant, limits
        self.counters = UsageCounters()
        self.is_dirty = False
        """Whether the key may have usage or leases that have to be reported to Redis."""
        self.is_forgotten = False
        """Whether the key is no longer cached, so that this object can be dropped once Redis has its usage."""
        self.in_flight = 0
        self.waiting = self.waiting_tokens = 0
        """The number of requests that wait for a lease (`waiting`), and the sum of the tokens that they need
        (`waiting_tokens`)."""


@dataclass(frozen=True, slots=True)
class VerifiedCaller(Caller):
    """A caller whose API key or token was verified. `usage` belongs to the key or, for a token, to its user."""

    usage: KeyUsage = field(kw_only=True, repr=False, compare=False)


class LimitRegistry:
    """The limits of all tenants and keys that this gateway knows, and the usage of each key."""

    def __init__(self, gateway: str, nearly_spent: set[LeasedLimit]) -> None:
        self._gateway = gateway
        self._nearly_spent = nearly_spent
        self._numbers = count(1)
        self.tenants: dict[str, TenantLimits] = {}
        self.usages: dict[str, KeyUsage] = {}
        self.dirty: set[KeyUsage] = set()

    def open(self, key: KeyRecord, tenant: TenantRecord) -> KeyUsage:
        """Sets the limits of a key and its tenant to those in the records, and returns the key's usage, which
        starts empty for a new key.
        """
        tenant_limits = self.tenants.get(key.tenant)
        if tenant_limits is None:
            tenant_limits = self.tenants[key.tenant] = TenantLimits(key.tenant)
        limits = self._limit_set(tenant_limits, key, tenant)
        usage = self.usages.get(key.id)
        if usage is None:
            usage = self.usages[key.id] = KeyUsage(key.id, tenant_limits, limits)
            tenant_limits.keys.add(key.id)
        usage.limits, usage.is_forgotten = limits, False
        return usage

    def forget(self, key: str) -> None:
        """Drops the usage and limits of the key with the id `key`. Usage that Redis does not have yet is kept until
        it is written.
        """
        usage = self.usages.get(key)
        if usage is not None:
            usage.is_forgotten = True
            if not usage.is_dirty:
                self._drop(usage)

    def mark_dirty(self, usage: KeyUsage) -> None:
        usage.is_dirty = True
        self.dirty.add(usage)

    def clear_dirty(self, usage: KeyUsage) -> None:
        usage.is_dirty = False
        self.dirty.discard(usage)
        if usage.is_forgotten:
            self._drop(usage)

    def count_nearly_spent(self, limit: str, owner: str, clock: Callable[[], float]) -> int:
        """Returns the number of budgets of which the fraction `BUDGET_WARNING_SHARE` or more is used.

        `limit` is the budgets' name, such as "dollars_per_day", and `owner` is "key" or "tenant". `clock` returns
        monotonic seconds.
        """
        now = clock()
        return sum(
            budget.limit == limit and budget.owner == owner and budget.spent_share(now) >= BUDGET_WARNING_SHARE
            for budget in self._nearly_spent
        )

    def _drop(self, usage: KeyUsage) -> None:
        if self.usages.get(usage.key) is not usage:
            return  # it was dropped before, and then a request arrived whose caller had been verified earlier
        del self.usages[usage.key]
        tenant = usage.tenant
        tenant.keys.discard(usage.key)
        for owner, limit in [name for name in tenant.limits if name[0] == usage.key]:
            self._nearly_spent.discard(tenant.limits.pop((owner, limit)))
        if not tenant.keys:
            del self.tenants[tenant.tenant]

    def _limit_set(self, tenant_limits: TenantLimits, key: KeyRecord, tenant: TenantRecord) -> LimitSet:
        own = self._leased_limits(tenant_limits, key.id, key.limits)
        shared = self._leased_limits(tenant_limits, WHOLE_TENANT, tenant.limits)

        def of(*names: str) -> LeasedLimits:
            return tuple(limits[name] for name in names for limits in (own, shared) if name in limits)

        requests, streams = of("requests_per_minute"), of("concurrent_streams")
        tokens, dollars = of("tokens_per_minute"), of("dollars_per_day", "dollars_per_month")
        units = requests + streams
        return LimitSet(requests, streams, tokens, dollars, units, units + tokens + dollars, self._nearly_spent)

    def _leased_limits(self, tenant_limits: TenantLimits, owner: str, limits: Limits) -> dict[str, LeasedLimit]:
        found = {}
        for name in WINDOWS:
            maximum = getattr(limits, name)
            if maximum is None:
                continue
            maximum = nanodollars(maximum) if name.startswith("dollars") else maximum
            limit = tenant_limits.limits.get((owner, name))
            if limit is None:
                holder = f"{self._gateway}.{next(self._numbers)}"
                redis_key = redis_layout.limit_key(tenant_limits.tenant, owner, name)
                limit = tenant_limits.limits[owner, name] = LeasedLimit(redis_key, name, maximum, holder)
            limit.maximum = maximum
            found[name] = limit
        return found
