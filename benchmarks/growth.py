"""Measures what grows with gateways, engines, adapter versions, and tenants: `python -m benchmarks.growth`.

Gateways, lora-servers and Valkey are real processes; the engines are doubles of vLLM with the guard. One number at a
time is raised from 1, and in the last row gateways and engines together, to see whether their costs multiply. Each row
is measured at rest for `--seconds`, then during moves of an alias, then with requests of all tenants in turn. Redis's
commands are those of its INFO. The last line of the output is one JSON object.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import aiohttp
from pointsman_servicekit.keys.key_store import NewKey
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.redis_clients import RedisClient, open_client

from benchmarks.gateway_load.machine import describe_machine
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.tenancy import register_at
from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.lora_server.server_process import ServerProcess
from tests.lora_server.tiny_adapters import BASE_NAME, good_tensors, write_adapter, write_base

MOVES = 10
REQUESTS_EACH = 10
"""Requests of each tenant through each gateway."""
MIN_REQUESTS = 400
LIMITS = Limits(requests_per_minute=100_000, tokens_per_minute=10_000_000, dollars_per_day=1000)
SETTLE_SECONDS = 3.0
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
class Growth:
    """The costs at one size. Costs per second are at rest; those of processes are the mean of one."""

    size: Size
    redis_commands: float
    """Commands per second."""
    redis_bytes: float
    """Bytes per second, received and sent."""
    redis_cores: float
    redis_connections: int
    redis_megabytes: float
    """`used_memory`, after all requests of this row."""
    move_commands: float
    """Commands to move one alias, until all gateways know it, in addition to those at rest."""
    request_commands: float
    """Commands per request with a key whose limits are checked, in addition to those at rest."""
    gateway_cores: float
    gateway_megabytes: float
    gateway_series: int
    """Time series on the first gateway's metrics page, after all requests of this row."""
    lora_server_cores: float
    lora_server_megabytes: float


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
            sum(_cpu_seconds(gateway.pid) for gateway in self.gateways),
            sum(_cpu_seconds(server.pid) for server in self.servers),
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
        async with aiohttp.ClientSession() as session:
            for _ in range(400):
                headers = {"authorization": f"Bearer {self.keys[0]}"}
                async with session.get(f"{gateway.url}/v1/models", headers=headers) as answer:
                    text = await answer.text()
                if version in text:
                    return
                await asyncio.sleep(0.05)
        raise AssertionError(f"the gateway does not know {version}: {text[:500]}")

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


def _in_groups(items: Sequence, count: int) -> list[Sequence]:  # type: ignore[type-arg]  # any processes
    return [items[at : at + count] for at in range(0, len(items), count)]


async def measure(size: Size, seconds: float) -> Growth:
    with tempfile.TemporaryDirectory() as name:
        async with running_fleet(Path(name), size) as fleet:
            await asyncio.sleep(SETTLE_SECONDS)
            still = await fleet.rest(seconds)
            before = await fleet.sample()
            await fleet.move()
            moving = rates(before, await fleet.sample())
            await fleet.ask()  # the first request of each key reads it from Redis
            before = await fleet.sample()
            asked = await fleet.ask()
            await asyncio.sleep(SETTLE_SECONDS)  # usage records are written in batches
            asking = rates(before, await fleet.sample())
            memory, clients = await fleet.redis.client.info("memory"), await fleet.redis.client.info("clients")
            _, page = await fleet.gateways[0].look("/metrics")
            at_rest = still.commands / still.seconds
            return Growth(
                size,
                at_rest,
                still.bytes / still.seconds,
                still.redis_seconds / still.seconds,
                int(clients["connected_clients"]) - 1,
                int(memory["used_memory"]) / 1e6,
                (moving.commands - at_rest * moving.seconds) / MOVES,
                (asking.commands - at_rest * asking.seconds) / asked,
                still.gateway_seconds / still.seconds / size.gateways,
                mean(_resident_megabytes(gateway.pid) for gateway in fleet.gateways),
                sum(1 for line in page.splitlines() if line and not line.startswith("#")),
                still.lora_server_seconds / still.seconds / size.engines,
                mean(_resident_megabytes(server.pid) for server in fleet.servers),
            )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _resident_megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise AssertionError(f"the process {pid} has ended")


COLUMNS = {
    "redis_commands": "Redis commands/s",
    "redis_bytes": "bytes/s",
    "redis_cores": "cores",
    "redis_connections": "connections",
    "redis_megabytes": "MB",
    "move_commands": "commands a move",
    "request_commands": "commands a request",
    "gateway_cores": "gateway cores",
    "gateway_megabytes": "MB",
    "gateway_series": "series",
    "lora_server_cores": "lora-server cores",
    "lora_server_megabytes": "MB",
}


def row(found: Growth) -> str:
    size, values = found.size, asdict(found)
    cells = [f"{values[name]:.3g}" if values[name] < 1000 else f"{values[name]:,.0f}" for name in COLUMNS]
    return f"| {size.gateways} | {size.engines} | {size.adapters} | {size.tenants} | {' | '.join(cells)} |"


async def main(sizes: Sequence[Size], seconds: float) -> None:
    print(describe_machine())
    print(f"| gateways | engines | adapters | tenants | {' | '.join(COLUMNS.values())} |")
    print("|---" * (4 + len(COLUMNS)) + "|", flush=True)
    all_found = []
    for size in sizes:
        all_found.append(await measure(size, seconds))
        print(row(all_found[-1]), flush=True)
    print(json.dumps({"benchmark": "growth", "rows": [asdict(found) for found in all_found]}))


def sizes(numbers: Sequence[int], processes: Sequence[int]) -> list[Size]:
    """Returns the base size, each number raised alone, and gateways and engines raised together."""
    base = Size()
    return [
        base,
        *(replace(base, gateways=count) for count in processes),
        *(replace(base, engines=count) for count in processes),
        *(replace(base, adapters=count) for count in numbers),
        *(replace(base, tenants=count) for count in numbers),
        replace(base, gateways=max(processes), engines=max(processes)),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--numbers", type=int, nargs="+", default=[10, 100], help="of adapters, and of tenants")
    parser.add_argument("--processes", type=int, nargs="+", default=[4, 10], help="of gateways, and of lora-servers")
    given = parser.parse_args()
    asyncio.run(main(sizes(given.numbers, given.processes), given.seconds))
