"""A servicer whose calls can be seen from outside, and what is said to it frame by frame."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_server import LIMITS, GrpcServer, ServerLimits, serving
from pointsman_servicekit.grpc_wire.messages import with_prefix
from pointsman_servicekit.grpc_wire.server import GrpcWire
from pointsman_servicekit.tls import ServerTls

from doubles.http2_client import Http2Client

ROUTE, GENERATE, ONCE = (f"/pointsman.v1.Gateway/{name}" for name in ("Route", "GenerateStream", "Generate"))
ASKED = pb.RouteRequest(model="auto").SerializeToString()
MESSAGE = with_prefix(ASKED)


class Talker(gateway_pb2_grpc.GatewayServicer):
    """Route echoes its request; Generate waits; GenerateStream writes as many bytes as the model says, forever."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.working = 0
        self.cancelled = 0
        self.written = 0
        self.go_on = asyncio.Event()

    async def Route(self, request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        context.set_trailing_metadata((("said", "all"), ("raw-bin", b"\x00\xff")))
        return pb.RouteResponse(decision=pb.Decision(path=request.model))

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        self.working += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.working -= 1
        return pb.GenerateResponse()

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        self.working += 1
        try:
            while True:
                yield pb.GenerateStreamResponse(delta=pb.Delta(content="x" * int(request.model)))
                self.written += 1
        finally:
            self.working -= 1


def talking(
    talker: Talker, limits: ServerLimits = LIMITS, tls: ServerTls | None = None, grace: float = 0
) -> AbstractAsyncContextManager[GrpcServer]:
    """A server of its own wire that has it."""

    def register(server: Any) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(talker, server)

    return serving("127.0.0.1:0", [], register, grace=grace, limits=limits, tls=tls, wire=GrpcWire)


def compressed(message: bytes) -> bytes:
    """A message that says so of itself."""
    return b"\x01" + len(message).to_bytes(4, "big") + message


def path_of(data: bytes) -> str:
    """That Route has answered."""
    return pb.RouteResponse.FromString(data[5:]).decision.path


async def status_of(client: Http2Client, stream: int) -> tuple[int, str]:
    """With which a call ends."""
    _, told = await client.answer(stream)
    return int(told["grpc-status"]), told.get("grpc-message", "")
