"""A servicer whose calls can be seen from outside."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc


class Talker(gateway_pb2_grpc.GatewayServicer):
    """Route says what it was told; GenerateOnce waits; Generate says as much as the request's model tells, forever."""

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

    async def GenerateOnce(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateOnceResponse:
        self.working += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.working -= 1
        return pb.GenerateOnceResponse()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.working += 1
        try:
            while True:
                yield pb.GenerateResponse(delta=pb.Delta(content="x" * int(request.model)))
                self.written += 1
        finally:
            self.working -= 1
