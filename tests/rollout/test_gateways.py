"""Three gateways behind a real Envoy are restarted one after another without losing a stream, over HTTP and gRPC."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.envoy import Envoy, running_envoy
from tests.gateway.doubles.load import Load, under_load
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.waiting import found, until
from tests.ports import free_port

STREAMS = 50
CALLS = 10
"""Number of concurrent gRPC calls."""


@dataclass
class Fleet:
    gateways: list[ProcessGateway]
    envoy: Envoy


@pytest.fixture
async def fleet(tmp_path: Path, config_folder: ConfigFolder, model_folder: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(process_engine(tmp_path, "a", pieces=20, first=0.05, gap=0.05))
        config_folder.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        config = config_folder.write()
        gateways, addresses = [], []
        for number in range(3):
            http, grpc_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
            settings = {
                "http_listen": http,
                "grpc_listen": grpc_address,
                "shutdown_delay": 2,
                "shutdown_timeout": 60,
                "grpc_max_connection_age": 5,
            }
            (tmp_path / str(number)).mkdir()
            gateway = ProcessGateway(
                tmp_path / str(number), settings | {"config": config, "embedding_model": model_folder}
            )
            stack.push_async_callback(gateway.kill)
            gateways.append(gateway)
            addresses.append((http, grpc_address))
        await asyncio.gather(*(gateway.open_clients() for gateway in gateways))
        apis = [http for http, _ in addresses], [grpc_address for _, grpc_address in addresses]
        yield Fleet(gateways, await stack.enter_async_context(running_envoy(tmp_path, *apis)))


@dataclass
class Calls:
    """Sends streams over gRPC one after another."""

    ended: int = 0
    failed: list[str] = field(default_factory=list)
    stopped: bool = False

    async def keep_calling(self, address: str) -> None:
        request = pb.GenerateRequest(messages=[pb.Message(role="user", content=IN_CHAT)], model="auto")
        async with open_channel(address) as channel:
            stub = gateway_pb2_grpc.GatewayStub(channel)
            while not self.stopped:
                text, finished = "", False
                try:
                    async for event in stub.GenerateStream(request, timeout=60):
                        text += event.delta.content
                        finished = finished or event.HasField("finished")
                except grpc.aio.AioRpcError as error:
                    self.failed.append(f"{error.code().name}: {error.details()}")
                else:
                    self.ended += 1
                    if text != "a" * 20 or not finished:
                        self.failed.append(f"cut: {text!r}")


async def restart(gateway: ProcessGateway, load: Load) -> None:
    """Restarts a gateway, and waits until Envoy sends it requests again."""
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended(within=90) == 0
    await gateway.open_clients()

    async def is_asked() -> bool:
        return await gateway.metric("pointsman_requests_total") > STREAMS / 5

    await found(is_asked, within=60)
    assert load.streaming > 0


async def test_a_rolling_restart_of_the_gateways_loses_no_stream(fleet: Fleet) -> None:
    calls = Calls()
    async with under_load(fleet.envoy.url, IN_CHAT, clients=STREAMS, deadline=60) as load:
        calling = [asyncio.create_task(calls.keep_calling(fleet.envoy.grpc_address)) for _ in range(CALLS)]
        await until(lambda: load.streaming >= STREAMS * 0.8, within=60)
        await load.more(STREAMS)
        for gateway in fleet.gateways:
            await restart(gateway, load)
        await load.more(STREAMS)
        calls.stopped = True
        await asyncio.gather(*calling)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    assert {outcome.text for outcome in load.outcomes} == {"a" * 20}
    assert calls.failed == []
    assert calls.ended > CALLS
    print(f"{len(load.outcomes)} streams over HTTP and {calls.ended} over gRPC, none lost")
