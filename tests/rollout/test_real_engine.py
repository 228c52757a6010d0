"""The real vLLM is stopped while it answers: gateways are told first, and all answers are completed."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.valkey import running_valkey
from tests.gateway.doubles.waiting import until
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"
STARTS = 300
"""Time limit of a start in seconds; a start usually takes 30 on two idle cores."""
STREAMS, TOKENS = 8, 150


class LoraServer(Process):
    def __init__(self, folder: Path, redis_url: str) -> None:
        engine = f"127.0.0.1:{free_port()}"
        self.address, self.engine_url = f"127.0.0.1:{free_port()}", f"http://{engine}"
        settings = {
            "LISTEN": self.address,
            "METRICS_LISTEN": "127.0.0.1:0",
            "REDIS_URL": redis_url,
            "STORE": str(folder / "store"),
            "JOBS": str(folder / "jobs"),
            "SMOKE_TEST": "off",
            "ENGINE_PYTHON": str(ROOT / ".venv-engine" / "bin" / "python"),
            "ENGINE_LISTEN": engine,
            "BASE_MODEL": str(ROOT / ".pointsman" / "models" / MODEL),
            "SHUTDOWN_TIMEOUT": "60",
        }
        environment = {f"POINTSMAN_LORA_{name}": value for name, value in settings.items()}
        super().__init__([sys.executable, "-m", "pointsman_lora_server"], environment, folder / "log", "gRPC on")

    async def until_status(self, status: pb.EngineStatus) -> pb.EngineState:
        async with asyncio.timeout(STARTS), open_channel(self.address) as channel:
            async for state in lora_server_pb2_grpc.LoraServerStub(channel).Watch(pb.WatchRequest()):
                if state.status == status:
                    found: pb.EngineState = state
                    return found
        raise AssertionError(self.words[-4000:])


@pytest.fixture
async def lora_server(tmp_path: Path) -> AsyncIterator[LoraServer]:
    async with running_valkey(tmp_path / "valkey") as valkey:
        server = LoraServer(tmp_path, valkey.url)
        try:
            await server.start()
            await server.until_status(pb.ENGINE_STATUS_READY)
            yield server
        finally:
            await server.kill()
            print(server.words[-6000:])


class Stream:
    def __init__(self) -> None:
        self.pieces = 0
        self.done = False

    async def read(self, session: aiohttp.ClientSession, url: str) -> None:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a long story."}], "stream": True}
        terms = {"max_tokens": TOKENS, "min_tokens": TOKENS}
        async with session.post(f"{url}/v1/chat/completions", json=asked | terms) as answer:
            assert answer.status == 200
            async for line in answer.content:
                data = line.strip().removeprefix(b"data: ")
                if data == b"[DONE]":
                    self.done = True
                elif data:
                    self.pieces += bool(json.loads(data)["choices"])


async def test_answers_in_flight_are_completed_when_the_engine_stops(lora_server: LoraServer) -> None:
    streams = [Stream() for _ in range(STREAMS)]
    async with aiohttp.ClientSession() as session:
        reading = [asyncio.create_task(stream.read(session, lora_server.engine_url)) for stream in streams]
        await until(lambda: all(stream.pieces > 2 for stream in streams), within=60)
        waiting = asyncio.create_task(lora_server.until_status(pb.ENGINE_STATUS_DOWN))
        lora_server.signal(signal.SIGTERM)
        assert "shutting down" in (await waiting).detail
        assert not all(stream.done for stream in streams)
        late = Stream()  # a gateway that has not learned about it yet
        await late.read(session, lora_server.engine_url)
        await asyncio.gather(*reading)
    assert await lora_server.ended(within=120) == 0
    assert all(stream.done and stream.pieces >= TOKENS * 0.9 for stream in [*streams, late])
