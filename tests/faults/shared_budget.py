"""Four gateway processes that share the budgets of one tenant in a group of Valkeys."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from pointsman_embedding.prepare import prepare
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import NANO, NO_LIMITS, Limits

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.deployment import MODEL
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, fit_classifier
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.valkey_groups import ClusterGroup, SentinelGroup, is_primary
from tests.gateway.doubles.waiting import found

GATEWAYS = 4
PER_MINUTE = 60
DOLLARS = 0.008
"""The tenant's budget in dollars. A request costs 0.00004 dollars and reserves less than 0.0004."""
LIMITS = Limits(requests_per_minute=PER_MINUTE, dollars_per_day=DOLLARS)
TEXT = "Hello, how are you today? " * 8
"""A text whose estimated number of tokens is above the 20 that the engine reports."""
PATIENCE = 60.0

Group = SentinelGroup | ClusterGroup


@dataclass(frozen=True)
class Answer:
    status: int
    sent: float
    ended: float
    """When the answer ended, in Unix seconds."""
    nanodollars: int = 0


@dataclass(frozen=True)
class Leases:
    """The leases of the gateways, read from Redis just before it failed."""

    at: float
    requests: tuple[int, ...]
    nanodollars: tuple[int, ...]


@dataclass
class Tenant:
    """A tenant with unspent limits. It records its answers, and the leases of gateways that lost Redis."""

    name: str
    headers: dict[str, str]
    answers: list[Answer] = field(default_factory=list)
    losses: list[Leases] = field(default_factory=list)

    def nanodollars(self) -> int:
        return sum(answer.nanodollars for answer in self.answers)

    def max_nanodollars(self) -> int:
        """Returns the most that the tenant may have spent by docs/keys.md: the limit, plus the leases of the gateways
        that lost Redis.
        """
        return round(DOLLARS * NANO) + sum(sum(loss.nanodollars) for loss in self.losses)

    def admitted_by_minute(self) -> dict[int, int]:
        """Counts, by minute, the requests that were both sent and answered in this minute."""
        minutes: dict[int, int] = {}
        for answer in self.answers:
            if answer.status == 200 and answer.sent // 60 == answer.ended // 60:
                minute = int(answer.sent // 60)
                minutes[minute] = minutes.get(minute, 0) + 1
        return minutes

    def max_in(self, minute: int, away: Sequence[tuple[float, float]]) -> int:
        """Returns the most requests that may be admitted in one minute by docs/keys.md: the limit plus, for each
        gateway without Redis, its lease or share.

        `away` are the intervals in which Redis was unavailable.
        """
        most, share = PER_MINUTE, PER_MINUTE // GATEWAYS
        for begin, end in away:
            if begin // 60 <= minute <= end // 60:
                leases = next((loss.requests for loss in self.losses if loss.at == begin and begin // 60 == minute), ())
                most += sum(max(held, share) for held in (*leases, *[0] * GATEWAYS)[:GATEWAYS])
        return most


@dataclass
class SharedBudget:
    group: Group
    gateways: list[ProcessGateway]
    session: aiohttp.ClientSession
    away: list[tuple[float, float]] = field(default_factory=list)
    """The intervals in which Redis was unavailable; the last end is infinite while it still is."""
    failed: Valkey | None = None
    hangs: bool = False
    tenants: int = 0

    async def new_tenant(self) -> Tenant:
        """Creates a tenant, and uses its key once at every gateway."""
        self.tenants += 1
        name = f"tenant-{self.tenants}"
        issued = await issue(self.group.url, NO_LIMITS, LIMITS, tenant=name)
        tenant = Tenant(name, {"authorization": f"Bearer {issued.credential.text}", "x-request-timeout": "10"})
        for gateway in self.gateways:

            async def accepts(gateway: ProcessGateway = gateway) -> bool:
                return (await self.ask(tenant, gateway)).status == 200

            await found(accepts, PATIENCE)
        return tenant

    async def ask(self, tenant: Tenant, gateway: ProcessGateway) -> Answer:
        body = {"model": "tiny", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 5}
        sent = time.time()
        url = f"{gateway.url}/v1/chat/completions"
        async with self.session.post(url, json=body, headers=tenant.headers) as response:
            answered = await response.json()
        cost = round(answered["pointsman"]["cost_usd"] * NANO) if response.status == 200 else 0
        assert response.status in (200, 429) or answered["error"]["code"] == "keys_unavailable", answered
        answer = Answer(response.status, sent, time.time(), cost)
        tenant.answers.append(answer)
        return answer

    async def send(self, tenant: Tenant, count: int, gateways: Sequence[int] = range(GATEWAYS)) -> list[Answer]:
        """Sends `count` requests to each of the gateways, eight at a time."""

        async def to(gateway: ProcessGateway) -> list[Answer]:
            slots = asyncio.Semaphore(8)

            async def one() -> Answer:
                async with slots:
                    return await self.ask(tenant, gateway)

            return list(await asyncio.gather(*(one() for _ in range(count))))

        answers = await asyncio.gather(*(to(self.gateways[number]) for number in gateways))
        return [answer for some in answers for answer in some]

    # -- faults

    async def leases(self, tenant: Tenant) -> Leases:
        """Reads from Redis the leases that each gateway holds in the current windows."""
        async with open_redis(self.group.url, lambda up: None, 5.0) as redis:
            held = {}
            for limit in ("requests_per_minute", "dollars_per_day"):
                key = redis_layout.limit_key(tenant.name, redis_layout.WHOLE_TENANT, limit)
                fields: dict[str, str] = await redis.call(partial(redis.client.hgetall, key))
                held[limit] = tuple(int(text.split()[0]) for name, text in fields.items() if "." in name)
        return Leases(time.time(), held["requests_per_minute"], held["dollars_per_day"])

    async def fail_primary(self, tenant: Tenant, *, hangs: bool) -> None:
        """Kills or suspends the server with the tenant's budgets."""
        if isinstance(self.group, ClusterGroup):
            key = redis_layout.limit_key(tenant.name, redis_layout.WHOLE_TENANT, "dollars_per_day")
            primary = await self.group.owner_of(key)
        else:
            (primary,) = await self.group.primaries()
        loss = await self.leases(tenant)
        tenant.losses.append(loss)
        self.away.append((loss.at, float("inf")))
        self.failed, self.hangs = primary, hangs
        if hangs:
            primary.hang()
        else:
            primary.kill()

    async def fail_over(self, tenant: Tenant) -> None:
        """Waits until a replica has become the primary and all gateways use it."""
        failed = self.failed
        assert failed

        async def replaced() -> bool:
            expected = 3 if isinstance(self.group, ClusterGroup) else 1
            others = [valkey for valkey in self.group.servers if valkey is not failed]
            return sum(await asyncio.gather(*map(is_primary, others))) == expected

        await found(replaced, PATIENCE)
        for gateway in self.gateways:
            before = await gateway.metric("pointsman_quota_lease_renewals_total", outcome="done")

            async def renews(gateway: ProcessGateway = gateway, before: float = before) -> bool:
                await self.ask(tenant, gateway)
                return await gateway.metric("pointsman_quota_lease_renewals_total", outcome="done") > before

            await found(renews, PATIENCE)
        self.away[-1] = (self.away[-1][0], time.time())

    async def repair(self) -> None:
        """Waits until the failed server is a replica of the new primary."""
        assert self.failed
        if self.hangs:
            self.failed.go_on()
        else:
            await self.failed.start()
        self.failed = None
        await found(self.group.is_complete, PATIENCE)

    async def used_nanodollars(self, tenant: Tenant) -> int:
        """Returns what the tenant has used today according to Redis."""
        key = redis_layout.limit_key(tenant.name, redis_layout.WHOLE_TENANT, "dollars_per_day")
        async with open_redis(self.group.url, lambda up: None, 5.0) as redis:
            return int(await redis.call(lambda: redis.client.hget(key, "used")) or 0)


@asynccontextmanager
async def shared_budget(folder: Path, group: Group) -> AsyncIterator[SharedBudget]:
    prepare(MODEL)
    config = ConfigFolder(folder / "config")
    config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
    config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(process_engine(folder, "a", first=0.0, gap=0.0))
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        settings: dict[str, Any] = {"config": config.write(), "embedding_model": MODEL}
        settings["classifier"] = fit_classifier(config.folder, folder / "classifier")
        settings |= {"redis_url": group.url, "auth": "on", "shutdown_delay": 0}
        gateways = []
        for number in range(GATEWAYS):
            own = folder / f"gateway-{number}"
            own.mkdir()
            gateway = ProcessGateway(own, settings | {"wal_dir": own / "wal"})
            stack.push_async_callback(gateway.kill)
            await gateway.open_clients()
            gateways.append(gateway)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        yield SharedBudget(group, gateways, session)
