"""A fleet of real gateways, lora-servers and a Valkey, whose engines are doubles, and counters of what it costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
from pointsman_servicekit.keys.key_store import NewKey
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.redis_clients import RedisClient, open_client

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.tenancy import register_at
from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.gateway.doubles.waiting import found
from tests.lora_server.server_process import ServerProcess
from tests.lora_server.tiny_adapters import BASE_NAME, good_tensors, write_adapter, write_base
from tests.security.measuring import cpu_seconds

T = TypeVar("T")

MOVES = 10
REQUESTS_EACH = 10
"""Requests of each tenant through each gateway."""
MIN_REQUESTS = 400
LIMITS = Limits(requests_per_minute=100_000, tokens_per_minute=10_000_000, dollars_per_day=1000)
MOVED = 0
"""Number of the adapter whose alias moves."""


@dataclass(frozen=True, slots=True)
class Size:
    gateways: int = 1
    engines: int = 1
    adapters: int = 1
    """Adapters with one version and one alias each; the first has a second version."""
    tenants: int = 1
    """Tenants with limits, each with one key."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters that only grow, of Redis and of the processes, at one time."""

    at: float
    commands: int
    bytes: int
    redis_seconds: float
    gateway_seconds: float
    """Of all gateways together."""
    lora_server_seconds: float


class Fleet:
    """Gateways, lora-servers and a Valkey; `keys` are the tenants' API keys."""

    def __init__(
        self, valkey: Valkey, redis: RedisClient, servers: Sequence[ServerProcess], gateways: Sequence[ProcessGateway]
    ) -> None:
        self.valkey = valkey
        self.redis = redis
        self.servers = servers
        self.gateways = gateways
        self.keys: list[str] = []
        self.versions: list[str] = []
        """The two versions of the adapter whose alias moves."""

    async def sample(self) -> Sample:
        stats, cpu = await self.redis.client.info("stats"), await self.redis.client.info("cpu")
        return Sample(
            time.monotonic(),
            int(stats["total_commands_processed"]),
            int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"]),
            float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
            sum(cpu_seconds(gateway.pid) for gateway in self.gateways),
            sum(cpu_seconds(server.pid) for server in self.servers),
        )

    async def rest(self, seconds: float) -> "Rates":
        before = await self.sample()
        await asyncio.sleep(seconds)
        return rates(before, await self.sample())

    async def move(self) -> None:
        """Moves the alias `MOVES` times, each time until every gateway names the new version."""
        for number in range(MOVES):
            version = self.versions[number % 2]
            await self.servers[0].promote(f"adapter-{MOVED}@prod", version)
            await asyncio.gather(*(self._until_known(gateway, version) for gateway in self.gateways))

    async def _until_known(self, gateway: ProcessGateway, version: str) -> None:
        headers = {"authorization": f"Bearer {self.keys[0]}"}
        async with aiohttp.ClientSession() as session:

            async def is_known() -> bool:
                async with session.get(f"{gateway.url}/v1/models", headers=headers) as answer:
                    return version in await answer.text()

            await found(is_known, within=20)

    async def ask(self) -> int:
        """Sends requests of all tenants in turn to each gateway; returns their number."""
        body = {"model": "path:safe_start", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        rounds = max(REQUESTS_EACH, MIN_REQUESTS // (len(self.keys) * len(self.gateways)))
        async with aiohttp.ClientSession() as session:
            for gateway in self.gateways:
                for key in self.keys * rounds:
                    headers = {"authorization": f"Bearer {key}"}
                    async with session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as answer:
                        assert answer.status == 200, await answer.text()
        return rounds * len(self.keys) * len(self.gateways)


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two samples."""

    seconds: float
    commands: int
    """Redis's, without those that read the two samples."""
    bytes: int
    redis_seconds: float
    gateway_seconds: float
    lora_server_seconds: float


def rates(before: Sample, after: Sample) -> Rates:
    commands = after.commands - before.commands - 2  # INFO is sent twice for each sample
    return Rates(
        after.at - before.at,
        commands,
        after.bytes - before.bytes,
        after.redis_seconds - before.redis_seconds,
        after.gateway_seconds - before.gateway_seconds,
        after.lora_server_seconds - before.lora_server_seconds,
    )


@asynccontextmanager
async def running_fleet(folder: Path, size: Size) -> AsyncIterator[Fleet]:
    """Starts the processes, registers the adapters, creates the tenants, and waits until every gateway is ready."""
    write_base(folder / "base")
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(running_valkey(folder / "valkey"))
        redis = await stack.enter_async_context(open_client(valkey.url))
        servers = [
            ServerProcess(folder / f"s{number}", folder / "base", f"engine-{number}", valkey.url, folder / "store")
            for number in range(size.engines)
        ]
        for server in servers:
            stack.push_async_callback(server.kill)
        for some in _in_groups(servers, 4):
            await asyncio.gather(*(server.start_with_engine() for server in some))
        config = ConfigFolder(folder / "config")
        config.models["models"] = {BASE_NAME: config.models["models"]["tiny"]}
        config.models["engines"] = {
            f"e{number}": {"model": BASE_NAME, "lora_server": server.address} for number, server in enumerate(servers)
        }
        config.paths, config.tasks = {"safe_start": {"model": BASE_NAME}}, {}
        written, gateways = config.write(), []
        for number in range(size.gateways):
            own = folder / f"g{number}"
            own.mkdir()
            settings = {"config": written, "redis_url": valkey.url, "auth": "on", "wal_dir": own / "wal"}
            gateways.append(ProcessGateway(own, settings))
            stack.push_async_callback(gateways[-1].kill)
        for few in _in_groups(gateways, 4):
            await asyncio.gather(*(gateway.open_clients() for gateway in few))
        fleet = Fleet(valkey, redis, servers, gateways)
        await _create(fleet, folder, size)
        yield fleet


async def _create(fleet: Fleet, folder: Path, size: Size) -> None:
    async with register_at(fleet.valkey.url) as store:
        for number in range(size.tenants):
            issued = await store.create(NewKey(name="first", tenant=f"team-{number}", limits=LIMITS))
            await store.limit_tenant(f"team-{number}", lambda _: LIMITS)
            fleet.keys.append(issued.credential.text)
    for number in range(size.adapters):
        for ids in ([100, 101], [102, 103])[: 2 if number == MOVED else 1]:
            given = write_adapter(folder / f"adapter-{number}-{ids[0]}", good_tensors(), config={"answer_ids": ids})
            version = await fleet.servers[0].register(f"adapter-{number}", given, "prod")
            if number == MOVED:
                fleet.versions.append(version.version)


def _in_groups(items: Sequence[T], count: int) -> list[Sequence[T]]:
    return [items[at : at + count] for at in range(0, len(items), count)]
