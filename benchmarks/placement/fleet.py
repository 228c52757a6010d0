"""Starts the real services that the simulation is compared with: engines that share the machine's cores, each with a
lora-server, and one gateway.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.adapters.adapters import ConstantAdapter
from benchmarks.adapters.services import (
    ALIAS_SUFFIX,
    BASE,
    BASE_FOLDER,
    ENGINE_PYTHON,
    PRICES,
    REGISTER_SECONDS,
    start_process,
    start_valkey,
    until_engine_ready,
    watch_engine,
)
from benchmarks.gateway_load.http_client import HOST, answers_at, get
from benchmarks.gateway_load.machine import CannotMeasure, free_ports

ENGINE_VARIABLES = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""One thread for each engine, which the kernel moves between the cores: with the default, each engine's threads would
wait actively for each other on cores that other engines use."""
PROBE_SECONDS = 3600
"""Interval of the base model's probes. With the default of 30 s they would take a tenth of two cores."""
SLOT_WAIT_SECONDS = 120
"""How long a load may wait for others on the same engine; the trials of versions take long on few cores."""
MAX_TOKENS = 64
START_SECONDS = 480.0
"""Time limit for all engines to start; four take about four minutes of two idle cores."""
LOAD_SECONDS = 120.0
"""Timeout of one load of an adapter."""
MAX_CONCURRENT_REGISTRATIONS = 4


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """Settings of the fleet."""

    engines: int
    held: int
    """Number of adapter versions in each engine's host memory."""
    in_batch: int
    """Maximum number of different adapters in one batch."""
    adapters: int
    tokens_per_second: float | None = None
    """What an engine generates when it is busy, for placement by demand; None: the highest rate that it has shown."""


@dataclass(frozen=True, slots=True)
class EngineNode:
    """One running vLLM engine, with the lora-server that loads adapters into it."""

    name: str
    port: int
    metrics: int
    """The port of the lora-server's metrics."""
    stub: lora_server_pb2_grpc.LoraServerStub

    async def load(self, version: str) -> None:
        """Returns when the engine holds the version. Raises AioRpcError."""
        await self.stub.EnsureLoaded(pb.EnsureLoadedRequest(version=version), timeout=LOAD_SECONDS)

    async def resident(self) -> frozenset[str]:
        async with watch_engine(self.stub) as states:
            async for state in states:
                return frozenset(state.resident)
        raise CannotMeasure(f"the lora-server of {self.name} ended its watch")

    async def count(self, metric: str) -> dict[str, float]:
        """Returns the values of one of the lora-server's counters, by the value of its label."""
        page = (await get(self.metrics, "/metrics")).body.decode()
        return {
            next(iter(sample.labels.values()), ""): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == metric
        }


@dataclass(frozen=True, slots=True)
class Fleet:
    nodes: tuple[EngineNode, ...]
    gateway: int
    """The gateway's HTTP port."""
    versions: tuple[str, ...]
    """By the adapter's number, the version that its alias points to."""

    @property
    def aliases(self) -> list[str]:
        return [f"{adapter_name(number)}@{ALIAS_SUFFIX}" for number in range(len(self.versions))]

    async def loads(self) -> float:
        """Returns how many loads of adapters have succeeded on all engines so far."""
        counts = [await node.count("pointsman_lora_adapter_loads_total") for node in self.nodes]
        return sum(each["loaded"] for each in counts)

    async def moves(self) -> dict[str, float]:
        """Returns how many loads placement by demand has planned so far, by reason."""
        counts = [await node.count("pointsman_lora_placement_moves_total") for node in self.nodes]
        return {reason: sum(each[reason] for each in counts) for reason in counts[0]}


def adapter_name(number: int) -> str:
    return f"word{number:03}"


@asynccontextmanager
async def run_fleet(folder: Path, plan: FleetPlan, adapters: Sequence[ConstantAdapter]) -> AsyncIterator[Fleet]:
    """Runs the services for the length of the block, with all adapters registered and placed by demand.

    Raises CannotMeasure if a service does not start, and AioRpcError if an adapter cannot be registered.
    """
    for needed, made_by in ((ENGINE_PYTHON, "make env"), (BASE_FOLDER, "make models")):
        if not needed.exists():
            raise CannotMeasure(f"{needed} is missing: run `{made_by}`")
    valkey, http, grpc_port, *ports = free_ports(3 + 3 * plan.engines)
    redis_url = f"redis://{HOST}:{valkey}/0"
    async with AsyncExitStack() as stack:
        await start_valkey(stack, folder, valkey)
        nodes, waits, addresses = [], [], dict[str, str]()
        for number in range(plan.engines):
            name, (server, metrics, engine) = f"engine-{number}", ports[3 * number : 3 * number + 3]
            addresses[name] = f"{HOST}:{server}"
            environment = _settings(folder, plan, name, redis_url) | {
                "POINTSMAN_LORA_LISTEN": addresses[name],
                "POINTSMAN_LORA_METRICS_LISTEN": f"{HOST}:{metrics}",
                "POINTSMAN_LORA_ENGINE_LISTEN": f"{HOST}:{engine}",
            }
            command = [sys.executable, "-m", "pointsman_lora_server"]
            process = stack.enter_context(start_process(folder, name, command, environment))
            channel = await stack.enter_async_context(open_channel(addresses[name]))
            nodes.append(EngineNode(name, engine, metrics, lora_server_pb2_grpc.LoraServerStub(channel)))
            waits.append(until_engine_ready(nodes[-1].stub, process, START_SECONDS))
        await asyncio.gather(*waits)
        environment = {
            "POINTSMAN_GATEWAY_HTTP_LISTEN": f"{HOST}:{http}",
            "POINTSMAN_GATEWAY_GRPC_LISTEN": f"{HOST}:{grpc_port}",
            "POINTSMAN_GATEWAY_CONFIG": str(_write_config(folder / "pointsman.yaml", addresses, plan.adapters)),
            "POINTSMAN_GATEWAY_REDIS_URL": redis_url,
            "POINTSMAN_GATEWAY_WAL_DIR": str(folder / "wal"),
        }
        command = [sys.executable, "-m", "pointsman_gateway"]
        gateway = stack.enter_context(start_process(folder, "gateway", command, environment))
        await gateway.until_ready(lambda: answers_at(http, "/readyz"), timeout_s=120)
        yield Fleet(tuple(nodes), http, await _register(nodes, adapters[: plan.adapters]))


def _settings(folder: Path, plan: FleetPlan, name: str, redis_url: str) -> dict[str, str]:
    settings = {
        "REDIS_URL": redis_url,
        "STORE": str(folder / "store"),
        "JOBS": str(folder / "jobs"),
        "ENGINE_NAME": name,
        "ENGINE_PYTHON": str(ENGINE_PYTHON),
        "BASE_MODEL": str(BASE_FOLDER),
        "SERVED_MODEL_NAME": BASE,
        "HELD": str(plan.held),
        "MAX_LORAS": str(plan.in_batch),
        "SMOKE_TEST": "off",
        "SLOT_WAIT_TIMEOUT_SECONDS": str(SLOT_WAIT_SECONDS),
        "PLACEMENT": "auto",
        "PROBE_INTERVAL_SECONDS": str(PROBE_SECONDS),
    }
    if plan.tokens_per_second:
        settings["TOKENS_PER_SECOND"] = f"{plan.tokens_per_second:.3f}"
    return {f"POINTSMAN_LORA_{key}": value for key, value in settings.items()} | ENGINE_VARIABLES


def _write_config(file: Path, lora_servers: Mapping[str, str], adapters: int) -> Path:
    """Writes a configuration without tasks, in which each adapter has a path."""
    greedy = {"model": BASE, "temperature": 0, "max_tokens": MAX_TOKENS}
    names = [adapter_name(number) for number in range(adapters)]
    config = {
        "prices_as_of": "2026-11-01",
        "models": {BASE: {"context_window": 4096, "usd_per_million_tokens": PRICES}},
        "engines": {name: {"model": BASE, "lora_server": address} for name, address in lora_servers.items()},
        "paths": {"base": greedy} | {name: greedy | {"adapter": f"{name}@{ALIAS_SUFFIX}"} for name in names},
        "default_path": "base",
    }
    file.write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
    return file


async def _register(nodes: Sequence[EngineNode], adapters: Sequence[ConstantAdapter]) -> tuple[str, ...]:
    places = asyncio.Semaphore(MAX_CONCURRENT_REGISTRATIONS)

    async def register(number: int, adapter: ConstantAdapter) -> str:
        request = pb.RegisterRequest(
            name=adapter_name(number), folder=str(adapter.folder), alias=ALIAS_SUFFIX, author="measurement"
        )
        async with places:
            answer: pb.AdapterVersion = await nodes[number % len(nodes)].stub.Register(
                request, timeout=REGISTER_SECONDS
            )
        return answer.version

    return tuple(await asyncio.gather(*(register(number, each) for number, each in enumerate(adapters))))
