"""The lora-server in its own process with a double of the engine; it can be killed at any time."""

import asyncio
import os
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.gateway.doubles.processes import Process
from tests.ports import free_port

MakeAdapter = Callable[..., Path]
RunLoraServer = Callable[..., AbstractAsyncContextManager[Any]]
"""The fixtures `make_adapter` and `run_lora_server`."""

FAKE_ENGINE = Path(__file__).parent / "fake_engine.py"
ENGINE_PYTHON = Path(__file__).parent / "engine_python.py"
PATIENCE = 60.0
"""Time limit in seconds: a lease of a killed server expires after 10 seconds, and the machine may be busy."""


class ServerProcess(Process):
    """A lora-server in a process of its own. `folder` is its alone; the store and the registry may be shared."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        name: str,
        redis_url: str,
        store: Path,
        slots: int = 4,
        listen: str = "",
        more: Mapping[str, str] = {},
        token: str = "",
    ) -> None:
        """Takes the server's folders and addresses. `more` are additional settings, which may replace others; `token`
        is sent by its callers.
        """
        folder.mkdir(parents=True)
        self.folder = folder
        self.address = listen or f"127.0.0.1:{free_port()}"
        self._token = (lambda: token) if token else None
        self.engine_port = free_port()
        self.engine_url = f"http://127.0.0.1:{self.engine_port}"
        settings = {
            "LISTEN": self.address,
            "METRICS_LISTEN": "127.0.0.1:0",
            "REDIS_URL": redis_url,
            "STORE": str(store),
            "STORE_CACHE": str(folder / "fetched"),
            "JOBS": str(folder / "jobs"),
            "ENGINE_NAME": name,
            "ENGINE_PYTHON": str(engine_python(folder)),
            "ENGINE_LISTEN": f"127.0.0.1:{self.engine_port}",
            "BASE_MODEL": str(base),
            "SERVED_MODEL_NAME": "tiny-base",
            "HELD": str(slots),
            "MAX_LORAS": "1",
            **more,
        }
        environment = {f"POINTSMAN_LORA_{key}": value for key, value in settings.items()}
        program = [sys.executable, "-m", "pointsman_lora_server"]
        super().__init__(program, environment, folder / "lora-server.log", r"gRPC on (127\.[\d.]+:\d+)")

    async def start_with_engine(self) -> None:
        await self.start()
        await self.until(self.is_engine_ready)

    async def is_engine_ready(self) -> bool:
        return (await self.engine_state()).status == pb.ENGINE_STATUS_READY

    # -- suspending it

    def hold_trials(self) -> None:
        (self.folder / "hold-trials").touch()

    def release_trials(self) -> None:
        (self.folder / "hold-trials").unlink(missing_ok=True)

    async def hold(self, what: str) -> None:
        """Makes the engine's double wait with "loads" or "answers". A restarted double waits with neither."""
        async with aiohttp.ClientSession() as session:
            await session.post(f"{self.engine_url}/hold", json={"what": what})

    async def release(self) -> None:
        async with aiohttp.ClientSession() as session:
            with suppress(aiohttp.ClientError):
                await session.post(f"{self.engine_url}/release")

    def kill_engine(self) -> None:
        """Sends SIGKILL to vLLM's own process, not to its supervisor."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if str(self.engine_port) in arguments and str(FAKE_ENGINE) in arguments:
                os.kill(int(process.name), signal.SIGKILL)
                return
        raise AssertionError("no engine runs")

    # -- calling it

    async def call(self, method: str, request: Any, comes_again: bool = True) -> Any:
        """Calls the server. With `comes_again`, it repeats the call while the server reports that Redis is unavailable,
        which happens on a busy machine. Raises AioRpcError.

        Each call has its own channel, so that none waits for a connection to a dead server.
        """
        deadline = time.monotonic() + PATIENCE
        async with open_channel(self.address, token=self._token) as channel:
            asked = getattr(lora_server_pb2_grpc.LoraServerStub(channel), method)
            while True:
                try:
                    return await asked(request, timeout=PATIENCE, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    code = from_rpc_error(error, "lora-server").code
                    if not comes_again or code != "redis_unavailable" or time.monotonic() > deadline:
                        raise
                await asyncio.sleep(0.05)

    async def register(self, name: str, folder: Path, word: str = "", comes_again: bool = True) -> pb.AdapterVersion:
        request = pb.RegisterRequest(name=name, folder=str(folder), alias=word, author="test")
        version: pb.AdapterVersion = await self.call("Register", request, comes_again)
        return version

    async def promote(self, alias: str, version: str) -> pb.Alias:
        moved: pb.Alias = await self.call("SetAlias", pb.SetAliasRequest(alias=alias, version=version, author="test"))
        return moved

    async def listed(self) -> pb.ListAdaptersResponse:
        listed: pb.ListAdaptersResponse = await self.call("List", pb.ListAdaptersRequest())
        return listed

    async def state_of(self, name: str) -> str:
        """Returns the state of the newest version of `name`, for example "serving"; empty without a version."""
        listed = await self.listed()
        found = [version for version in listed.versions if version.name == name]
        return pb.AdapterState.Name(found[0].state).removeprefix("ADAPTER_STATE_").lower() if found else ""

    async def until_state(self, name: str, *states: str) -> None:
        async def reached() -> bool:
            return await self.state_of(name) in states

        await self.until(reached)

    async def until(self, holds: Callable[[], Awaitable[object]], within: float = PATIENCE) -> None:
        """Waits until `holds` returns a truthy value, even if processes die meanwhile."""
        deadline, last = time.monotonic() + within, ""
        while time.monotonic() < deadline:
            try:
                if await holds():
                    return
            except (grpc.aio.AioRpcError, aiohttp.ClientError, OSError) as error:
                last = str(error)
            await asyncio.sleep(0.005)
        raise AssertionError(f"it never came to that; {last}\n{self.words[-4000:]}")

    async def engine_state(self) -> pb.EngineState:
        async with open_channel(self.address, token=self._token) as channel:
            stub = lora_server_pb2_grpc.LoraServerStub(channel)
            async for state in stub.Watch(pb.WatchRequest(), wait_for_ready=True, timeout=PATIENCE):
                found: pb.EngineState = state
                return found
        raise AssertionError("the watch ended")

    # -- calling its engine like a gateway

    async def answered_by(self, version: str) -> str:
        """Asks the engine for an answer of `version`. Returns the version whose text is in the answer; empty if the
        engine does not know the version.
        """
        body = {"model": version, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.engine_url}/v1/chat/completions", json=body) as answer,
        ):
            if answer.status == 404:
                return ""
            return str((await answer.json())["choices"][0]["message"]["content"])

    async def engine_holds(self) -> set[str]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.engine_url}/v1/models") as answer:
            return {model["id"] for model in (await answer.json())["data"]} - {"tiny-base"}

    async def evicted(self) -> int:
        """Returns how many loads would have made the engine evict an adapter by itself."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.engine_url}/evicted") as answer:
            return int(await answer.json())


def engine_python(folder: Path) -> Path:
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ENGINE_PYTHON}" "{folder}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


async def refusal(call: Any) -> PointsmanError:
    """Awaits a call that the lora-server must reject, and returns the error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, "lora-server")


def aliases(state: pb.EngineState) -> dict[str, str]:
    return {alias.alias: alias.version for alias in state.aliases}
