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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

from benchmarks.gateway_load.machine import describe_machine
from benchmarks.growth.fleet import MOVES, Size, rates, running_fleet
from tests.security.measuring import memory_mib

SETTLE_SECONDS = 3.0


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
    gateway_mib: float
    gateway_series: int
    """Time series on the first gateway's metrics page, after all requests of this row."""
    lora_server_cores: float
    lora_server_mib: float


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
                mean(memory_mib(gateway.pid, "VmRSS") for gateway in fleet.gateways),
                sum(1 for line in page.splitlines() if line and not line.startswith("#")),
                still.lora_server_seconds / still.seconds / size.engines,
                mean(memory_mib(server.pid, "VmRSS") for server in fleet.servers),
            )


COLUMNS = {
    "redis_commands": "Redis commands/s",
    "redis_bytes": "bytes/s",
    "redis_cores": "cores",
    "redis_connections": "connections",
    "redis_megabytes": "MB",
    "move_commands": "commands a move",
    "request_commands": "commands a request",
    "gateway_cores": "gateway cores",
    "gateway_mib": "MiB",
    "gateway_series": "series",
    "lora_server_cores": "lora-server cores",
    "lora_server_mib": "MiB",
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
