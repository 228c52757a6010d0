"""A scripted servicer behind a real server; the model in the request selects how the servicer behaves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import GrpcServer, serving

from tests.ports import free_port

SERVICE = pb.DESCRIPTOR.services_by_name["Gateway"].full_name


class Servicer(gateway_pb2_grpc.GatewayServicer):
    """A servicer that raises `error` if it is set: immediately in Route, and after one message in GenerateStream.

    In a call of the model "gone", it sends to its client after the client has cancelled the call.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.closed = asyncio.Event()
        self.peers: set[str] = set()
        """The connections over which Route was called."""
        self.waits = asyncio.Event()

    async def _outlive_the_client(self, send: Callable[[], Awaitable[None]]) -> None:
        """Waits until the client is gone, and then sends something to it."""
        try:
            self.waits.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await send()
        finally:
            self.closed.set()

    async def Route(self, request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        self.peers.add(context.peer())
        if request.model == "gone":
            await self._outlive_the_client(lambda: context.send_initial_metadata((("x-pointsman-path", "a"),)))
        if self.error:
            raise self.error
        return pb.RouteResponse(decision=pb.Decision(path=request.model))

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        try:
            if request.model == "gone":
                await self._outlive_the_client(lambda: context.write(pb.GenerateStreamResponse()))
            while True:
                yield pb.GenerateStreamResponse(delta=pb.Delta(content="one"))
                if self.error:
                    raise self.error
        finally:
            self.closed.set()


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def server(servicer: Servicer) -> AsyncIterator[GrpcServer]:
    def register(server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)

    async with serving("127.0.0.1:0", [SERVICE], register, grace=0) as server:
        yield server


@pytest.fixture
async def channel(server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(server.address) as channel:
        yield channel


@pytest.fixture(params=["unary", "streaming"])
async def call(request: pytest.FixtureRequest, channel: grpc.aio.Channel) -> Any:
    """Returns a function that completes a unary or streaming call; the function accepts metadata."""
    stub = gateway_pb2_grpc.GatewayStub(channel)

    async def unary(metadata: Any = ()) -> Any:
        return await stub.Route(pb.RouteRequest(model="auto"), metadata=metadata)

    async def streaming(metadata: Any = ()) -> Any:
        return [response async for response in stub.GenerateStream(pb.GenerateRequest(model="auto"), metadata=metadata)]

    return unary if request.param == "unary" else streaming


@pytest.fixture
def free_address() -> str:
    """Returns an address at which no server listens."""
    return f"127.0.0.1:{free_port()}"
