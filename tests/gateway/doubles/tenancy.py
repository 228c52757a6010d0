"""Tenancy without a gateway, with a clock that tests can advance."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.domain import Caller
from pointsman_gateway.tenancy.keys import KeyCacheConfig
from pointsman_gateway.tenancy.limits import Clock
from pointsman_gateway.tenancy.metrics import TenancyMetrics
from pointsman_gateway.tenancy.reservation import LeasedReservation
from pointsman_gateway.tenancy.stage import RedisTenancy
from pointsman_gateway.tenancy.tasks import POLL_TIMEOUT_SECONDS
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.errors import ResourceExhausted
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.key_store import IssuedKey, KeyStore, NewKey
from pointsman_servicekit.keys.records import NO_LIMITS, Limits
from pointsman_servicekit.redis_clients import open_client
from prometheus_client import CollectorRegistry

COPIES = KeyCacheConfig()
PATIENT = 1.0
"""A long timeout for Redis, so that it is not considered down because the machine is busy."""


class Times:
    """A common clock for all gateways and Redis: the real time plus what a test has added."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def pass_by(self, seconds: float) -> None:
        self._ahead_ms += round(seconds * 1000)

    def wall(self) -> float:
        return time.time() + self._ahead_ms / 1000

    def enter_the_next(self, window: redis_layout.Window, plus: float = 0.05) -> None:
        """Advances to `plus` seconds after the start of the next window."""
        now = int(self.wall() * 1000)
        self.pass_by((redis_layout.window_at(window, now)[1] - now) / 1000 + plus)

    def begin_a_minute(self) -> None:
        """Advances to the start of a minute, such that the next two minutes are in one day and the next two days in one
        month.
        """
        while self._month_in(2 * redis_layout.A_DAY) != self._month_in(0):
            self.pass_by(redis_layout.A_DAY)
        self.enter_the_next(redis_layout.Window.MINUTE)
        if (int(self.wall()) + 120) // redis_layout.A_DAY != int(self.wall()) // redis_layout.A_DAY:
            self.pass_by(180)

    def _month_in(self, seconds: int) -> int:
        return redis_layout.window_at(redis_layout.Window.MONTH, int(1000 * (self.wall() + seconds)))[0]

    @property
    def clock(self) -> Clock:
        return Clock(lambda: time.monotonic() + self._ahead_ms / 1000, self.wall, lambda: self._ahead_ms)


@dataclass(frozen=True)
class Counter:
    """A gateway's tenancy with a real Valkey, and its metrics."""

    tenancy: RedisTenancy
    registry: CollectorRegistry

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def caller(self, issued: IssuedKey) -> Caller:
        return await self.tenancy.identify(issued.credential.text)

    async def let_in(self, caller: Caller, tokens: int = 1) -> LeasedReservation | None:
        """Reserves quota for a request of `caller`; returns None if a limit is reached."""
        try:
            return self.tenancy.enter_now(caller, tokens) or await self.tenancy.enter(caller, tokens)
        except ResourceExhausted:
            return None


@asynccontextmanager
async def counter_at(
    url: str,
    times: Times | None = None,
    running: bool = True,
    deadline: float = PATIENT,
    copies: KeyCacheConfig = COPIES,
) -> AsyncIterator[Counter]:
    registry = CollectorRegistry()
    async with (
        open_redis(url, lambda up: None, deadline) as redis,
        open_redis(url, lambda up: None, max(deadline, POLL_TIMEOUT_SECONDS), 0.0) as watching,
    ):
        tenancy = RedisTenancy(redis, TenancyMetrics(registry), copies, (times or Times()).clock, watching)
        counter = Counter(tenancy, registry)
        if running:
            async with tenancy.running():
                yield counter
        else:
            yield counter


@asynccontextmanager
async def register_at(url: str, times: Times | None = None) -> AsyncIterator[KeyStore]:
    async with open_redis(url, lambda up: None, 5.0) as redis:
        yield KeyStore(redis, (times or Times()).wall)


async def issue(url: str, limits: Limits = NO_LIMITS, tenant_limits: Limits | None = None, **order: Any) -> IssuedKey:
    async with register_at(url) as register:
        fields: dict[str, Any] = {"tenant": "acme", "limits": limits, **order}
        issued = await register.create(NewKey(**fields))
        if tenant_limits is not None:
            await register.limit_tenant(issued.record.tenant, lambda _: tenant_limits)
        return issued


async def accounts_in(url: str, tenant: str, whose: str, limit: str) -> dict[str, str]:
    """Returns the fields that Redis stores for one limit."""
    async with open_client(url) as redis:
        found: Any = await redis.client.hgetall(redis_layout.limit_key(tenant, whose, limit))
        return dict(found)
