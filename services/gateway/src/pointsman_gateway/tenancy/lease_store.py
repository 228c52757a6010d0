"""Exchanges quota leases (the parts of a limit that Redis grants to one gateway) with Redis, atomically by Lua
scripts.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from itertools import count

from pointsman_servicekit.bounded_redis import BoundedRedis, read_script
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.administration import BUDGET_WARNING_SHARE
from pointsman_servicekit.keys.records import NANO

from pointsman_gateway.tenancy.leases import LEASE_SECONDS, LeasedLimit
from pointsman_gateway.tenancy.limits import Clock
from pointsman_gateway.tenancy.metrics import TenancyMetrics

log = logging.getLogger(__name__)

MAX_LIMITS_PER_CALL = 64
"""Maximum number of limits in one call to Redis, which then takes a few hundred microseconds."""
_FIELDS_PER_ANSWER = 5

Needs = Mapping[LeasedLimit, tuple[int, int]]
"""By limit, a pair: the amount that one request needs, and the amount that all waiting requests need. All limits are of
one tenant."""


class LeaseStore:
    def __init__(self, redis: BoundedRedis, clock: Clock, metrics: TenancyMetrics) -> None:
        self.gateway = secrets.token_hex(8)
        """Identifies this gateway process."""
        self.gateways = 1
        """The number of running gateways, as Redis last reported it."""
        self.nearly_spent: set[LeasedLimit] = set()
        """Budgets in dollars that were used to `BUDGET_WARNING_SHARE` or more at their last exchange with Redis."""
        self._redis = redis
        self._clock = clock
        self.metrics = metrics
        self._exchange_script = redis.client.register_script(read_script(__package__, "exchange_leases"))
        self._poll_script = redis.client.register_script(read_script(__package__, "poll"))
        self._numbers = count(1)
        self._redis_offset_ms = clock.wall() * 1000 - clock.monotonic() * 1000
        """Milliseconds by which the clock of Redis is at least ahead of this process's monotonic clock."""

    async def exchange(self, needs: Needs) -> None:
        """Reports this gateway's usage of the limits in `needs` to Redis, and sets the gateway's lease of each limit to
        the amount that Redis grants.

        Redis may grant less than is needed. The caller must hold the tenant's `exchange_lock`. Raises Unavailable if
        Redis does not answer in time.
        """
        limits = list(needs)
        for start in range(0, len(limits), MAX_LIMITS_PER_CALL):
            await self._exchange_batch({limit: needs[limit] for limit in limits[start : start + MAX_LIMITS_PER_CALL]})

    async def _exchange_batch(self, needs: Needs) -> None:
        number, sent = next(self._numbers), self._clock.monotonic()
        reports = {limit: limit.report(*need, self.gateways, sent) for limit, need in needs.items()}
        arguments = [self._clock.ahead_ms(), self.gateways, round(LEASE_SECONDS * 1000)]
        for limit, report in reports.items():
            arguments += limit.to_arguments(number, report)
        keys = [limit.name for limit in needs]
        try:
            redis_ms, *answers = await self._redis.call(lambda: self._exchange_script(keys=keys, args=arguments))
        except Unavailable:
            self.metrics.renewals.labels("failed").inc()
            raise
        now = self._synchronize_clock(redis_ms)
        self.metrics.renewals.labels("done").inc()
        for at, (limit, report) in enumerate(reports.items()):
            answer = answers[at * _FIELDS_PER_ANSWER : (at + 1) * _FIELDS_PER_ANSWER]
            limit.install(answer, report, sent, now)
            if limit.is_budget:
                self._note_budget(limit, limit.spent_share(now))

    def _note_budget(self, limit: LeasedLimit, share: float) -> None:
        """Keeps `nearly_spent` up to date, and logs a warning when a budget first reaches `BUDGET_WARNING_SHARE`;
        `share` (0 to 1) is how much of it is used.
        """
        if share < BUDGET_WARNING_SHARE:
            self.nearly_spent.discard(limit)
        elif limit not in self.nearly_spent:
            self.nearly_spent.add(limit)
            self.metrics.budget_warnings.labels(limit.limit, limit.owner).inc()
            log.warning(
                "a budget is nearly spent: %d %% of %s (%.6g dollars) are used; Redis key %s",
                share * 100,
                limit.limit,
                limit.maximum / NANO,
                limit.name,
            )

    def use_local_fallback(self, limits: Sequence[LeasedLimit]) -> None:
        """Lets requests use these limits without Redis for `FALLBACK_TTL_SECONDS`.

        This gateway may then use the limit divided by the number of gateways; of a budget in dollars only the amount
        that it has leased already.
        """
        now = self._clock.monotonic()
        redis_ms = int(now * 1000 + self._redis_offset_ms)
        for limit in limits:
            limit.use_local_fallback(redis_ms, self.gateways, now)
        self.metrics.local_fallbacks.inc(len(limits))

    async def poll(self, redis: BoundedRedis) -> int:
        """Registers this gateway in Redis as running for `LEASE_SECONDS`, and sets `gateways` to the number of running
        gateways.

        Uses the client `redis` instead of the store's own. Returns the epoch of the keys, a number that differs from
        earlier ones if keys or limits have changed since. Raises Unavailable if Redis does not answer in time.
        """
        arguments = [self._clock.ahead_ms(), self.gateway, round(LEASE_SECONDS * 1000)]
        keys = [redis_layout.GATEWAYS, redis_layout.EPOCH]
        redis_ms, self.gateways, epoch = await redis.call(
            lambda: self._poll_script(keys=keys, args=arguments, client=redis.client)
        )
        self._synchronize_clock(redis_ms)
        self.metrics.clock_offset.set(self._clock.wall() - redis_ms / 1000)
        return int(epoch)

    async def leave(self) -> None:
        """Removes this gateway from the running gateways in Redis, so that each of the other gateways may use a larger
        part of the limits.

        Raises Unavailable if Redis does not answer in time.
        """
        await self._redis.call(lambda: self._redis.client.zrem(redis_layout.GATEWAYS, self.gateway))

    def _synchronize_clock(self, redis_ms: int) -> float:
        now = self._clock.monotonic()
        self._redis_offset_ms = redis_ms - now * 1000
        return now
