"""Measures the registry with many versions: the time to register one, to list all, and until all lora-servers, and the
gateways of one of them, know a change."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.lora_server import watch_engine
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_lora_server.domain import AdapterVersion, Alias, EngineStatus, Phase, Placement, adapter_name
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.grpc.messages import EngineIdentity, StateMessages
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_servicekit.bounded_redis import open_redis
from prometheus_client import CollectorRegistry

from benchmarks.adapters.services import BASE, start_valkey
from benchmarks.gateway_load.http_client import HOST
from benchmarks.gateway_load.machine import free_ports

SERVERS = 16
"""Number of lora-servers that follow the registry, each with its own connections."""
VERSIONS_PER_ADAPTER = 10
ADDED_AT_ONCE = 8
DEADLINE_SECONDS = 5.0
"""Time limit of one call. The product's own is 50 ms; here a slower call is measured and does not fail."""
SIZES, QUICK_SIZES = (100, 1_000, 10_000), (100, 1_000)
REPEATS = 20
HELD = 64
"""Number of versions in the host memory of the engine whose changes are published."""


@dataclass(frozen=True, slots=True)
class RegistrySize:
    """Medians in milliseconds with `versions` registered versions."""

    versions: int
    register_ms: float
    list_ms: float
    """The time in which a new lora-server reads everything."""
    refresh_ms: float
    """The time in which a lora-server reads the state after one change."""
    watch_ms: float
    """From the call that changes one version until all followers have read the new state."""
    place_ms: float
    """The time to set the placement of one adapter."""
    publish_ms: float
    """The time from a moved alias in a lora-server until all gateways that watch it by gRPC use it; one process does
    the work of all of them."""


def version(number: int) -> AdapterVersion:
    name, facts = f"adapter-{number // VERSIONS_PER_ADAPTER}", {f"fact-{i}": "x" * 30 for i in range(10)}
    return AdapterVersion(
        name, f"{number:012x}".ljust(64, "0"), BASE, 8, ("q_proj", "v_proj"), 10**7, 1_700_000_000_000, facts
    )


async def measure(folder: Path, sizes: tuple[int, ...]) -> list[RegistrySize]:
    """Measures the registry at each size. Raises CannotMeasure."""
    (port,) = free_ports(1)
    async with AsyncExitStack() as stack:
        await start_valkey(stack, folder, port)

        async def connect() -> AdapterRegistry:
            url = f"redis://{HOST}:{port}/0"
            redis = await stack.enter_async_context(open_redis(url, lambda up: None, DEADLINE_SECONDS))
            return AdapterRegistry(redis, BASE)

        registry, servers = await connect(), [await connect() for _ in range(SERVERS)]
        found, known = [], 0
        for size in sizes:
            await _add(registry, range(known, size))
            found.append(await _measure(registry, servers, size, await _publish_ms(size)))
            known = size + REPEATS  # each measurement of a registration adds one
        return found


async def _add(registry: AdapterRegistry, numbers: range) -> None:
    left = iter(numbers)

    async def add() -> None:
        for number in left:
            added = version(number)
            await registry.add_version(added, "", False, "")
            await registry.set_phase(added.version, Phase.READY)

    await asyncio.gather(*(add() for _ in range(ADDED_AT_ONCE)))


async def _measure(
    registry: AdapterRegistry, servers: list[AdapterRegistry], size: int, publish_ms: float
) -> RegistrySize:
    numbers = iter(range(size, size + REPEATS))
    list_ms = [await _timed(server.read()) for server in servers]
    register_ms = [await _timed(registry.add_version(version(next(numbers)), "", False, "")) for _ in range(REPEATS)]
    refresh_ms, watch_ms, place_ms = [], [], []
    await asyncio.gather(*(server.read() for server in servers))
    for number in range(REPEATS):
        name = version(number).version
        await registry.set_pinned(name, True, "")
        refresh_ms.append(await _timed(servers[0].read()))
        watch_ms.append(await _timed_watch(registry, servers, name))
        place_ms.append(await _timed(registry.set_placement(version(number).name, Placement(number % 3 + 1), None, "")))
    times = register_ms, list_ms, refresh_ms, watch_ms, place_ms, [publish_ms]
    return RegistrySize(size, *map(median, times))


class _Watched(lora_server_pb2_grpc.LoraServerServicer):
    """The `Watch` of a lora-server whose engine holds as many of the versions as it can."""

    def __init__(self, size: int) -> None:
        names = [version(number).version for number in range(size)]
        self.aliases = tuple(Alias(f"{adapter_name(name)}@prod", name, 1) for name in names[::VERSIONS_PER_ADAPTER])
        self._ready = dict.fromkeys(names, 600.0)
        self._messages = StateMessages(EngineIdentity("engine", BASE, f"http://{HOST}:1", 1024))
        self._state = EngineStateStore()
        self._state.update(status=EngineStatus.READY, resident=frozenset(names[:HELD]))
        self._state.set_desired(self.aliases, self._ready)

    async def move(self, alias: Alias) -> None:
        self.aliases = (alias, *self.aliases[1:])
        self._state.set_desired(self.aliases, self._ready, frozenset({alias.alias}))

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.EngineState]:
        async for state, changed in self._state.watch_changes():
            yield self._messages.get(state, changed if request.changes else None)


def _revision(gateway: Engines, alias: str) -> int:
    known = gateway.get("engine").catalog.aliases.get(alias)
    return known.revision if known else 0


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _publish_ms(size: int) -> float:
    lora_server = _Watched(size)
    first = lora_server.aliases[0]
    async with AsyncExitStack() as stack:
        (port,) = free_ports(1)
        server = grpc.aio.server()
        lora_server_pb2_grpc.add_LoraServerServicer_to_server(lora_server, server)
        server.add_insecure_port(f"{HOST}:{port}")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        gateways = [Engines([Engine("engine", BASE)]) for _ in range(SERVERS)]
        for gateway in gateways:
            watch = watch_engine(
                gateway, "engine", address=f"{HOST}:{port}", metrics=EngineMetrics(CollectorRegistry())
            )
            stack.push_async_callback(_stop, asyncio.create_task(watch))

        async def know(revision: int) -> None:
            while any(_revision(gateway, first.alias) < revision for gateway in gateways):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0)

        await know(1)
        moves = [replace(first, version=version(number % 10).version, revision=number) for number in range(2, 12)]
        return median([await _timed(asyncio.gather(lora_server.move(each), know(each.revision))) for each in moves])


async def _timed_watch(registry: AdapterRegistry, servers: list[AdapterRegistry], name: str) -> float:
    position = await registry.wait_for_change("", 1.0)
    await asyncio.gather(*(server.read() for server in servers))

    async def follow(server: AdapterRegistry) -> None:
        await server.wait_for_change(position, 4.0)
        assert name not in (await server.read()).pins

    following = asyncio.gather(*map(follow, servers))
    await asyncio.sleep(0.05)  # all of them wait in Redis by now
    return await _timed(asyncio.gather(registry.set_pinned(name, False, ""), following))


async def _timed(call: Awaitable[Any]) -> float:
    started = time.perf_counter()
    await call
    return 1e3 * (time.perf_counter() - started)
