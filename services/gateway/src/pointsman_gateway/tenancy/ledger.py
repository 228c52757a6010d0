"""Speaks to Redis about the slices."""

import secrets
from collections.abc import Mapping, Sequence
from itertools import count

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys import redis_layout

from pointsman_gateway.tenancy import scripts
from pointsman_gateway.tenancy.account import LEASE, Account
from pointsman_gateway.tenancy.clock import Clock
from pointsman_gateway.tenancy.metrics import TenancyMetrics

MOST_AT_ONCE = 64
"""Accounts in one call: some hundred microseconds of Redis's time."""
_AN_ANSWER_HAS = 5

Needs = Mapping[Account, tuple[int, int]]
"""What a request needs of each account, and what others that wait need beside it; the accounts are of one tenant, and
one speaks of a tenant's at a time."""


class Ledger:
    def __init__(self, redis: BoundedRedis, clock: Clock, metrics: TenancyMetrics) -> None:
        self.gateway = secrets.token_hex(8)
        self.gateways = 1
        """As Redis last said."""
        self._redis = redis
        self._clock = clock
        self._metrics = metrics
        self._exchange = redis.client.register_script(scripts.EXCHANGE)
        self._poll = redis.client.register_script(scripts.POLL)
        self._numbers = count(1)
        self._redis_is_ahead = clock.wall() * 1000 - clock.monotonic() * 1000
        """Milliseconds; a little less than Redis's clock is ahead of this one's."""

    async def exchange(self, needs: Needs) -> None:
        """Reports the accounts, and takes slices of them. Raises Unavailable."""
        accounts = list(needs)
        for start in range(0, len(accounts), MOST_AT_ONCE):
            await self._exchange_part({account: needs[account] for account in accounts[start : start + MOST_AT_ONCE]})

    async def _exchange_part(self, needs: Needs) -> None:
        number, sent = next(self._numbers), self._clock.monotonic()
        said = {account: account.ask(*need, self.gateways, sent) for account, need in needs.items()}
        arguments = [self._clock.ahead_ms(), self.gateways, round(LEASE * 1000)]
        for account, one in said.items():
            arguments += account.to_arguments(number, one)
        names = [account.name for account in needs]
        try:
            redis_ms, *answers = await self._redis.call(lambda: self._exchange(keys=names, args=arguments))
        except Unavailable:
            self._metrics.exchanges.labels("failed").inc()
            raise
        now = self._heard(redis_ms)
        self._metrics.exchanges.labels("done").inc()
        for at, (account, one) in enumerate(said.items()):
            account.install(answers[at * _AN_ANSWER_HAS : (at + 1) * _AN_ANSWER_HAS], one, sent, now)

    def go_on_alone(self, accounts: Sequence[Account]) -> None:
        now = self._clock.monotonic()
        redis_ms = int(now * 1000 + self._redis_is_ahead)
        for account in accounts:
            account.go_on_alone(redis_ms, self.gateways, now)
        self._metrics.alone.inc(len(accounts))

    async def poll(self) -> int:
        """Says that this gateway is there; returns the keys' epoch. Raises Unavailable."""
        arguments = [self._clock.ahead_ms(), self.gateway, round(LEASE * 1000)]
        names = [redis_layout.GATEWAYS, redis_layout.EPOCH]
        redis_ms, self.gateways, epoch = await self._redis.call(lambda: self._poll(keys=names, args=arguments))
        self._heard(redis_ms)
        return int(epoch)

    async def leave(self) -> None:
        await self._redis.call(lambda: self._redis.client.zrem(redis_layout.GATEWAYS, self.gateway))

    def _heard(self, redis_ms: int) -> float:
        now = self._clock.monotonic()
        self._redis_is_ahead = redis_ms - now * 1000
        return now
