"""The gRPC part of the soak test: unary calls, streams, cancelled streams, and calls whose engine fails."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc

from benchmarks.gateway_load.http_client import HOST
from benchmarks.gateway_load.our_gateway import Gateway

CONNECTIONS = 4
CALLS_PER_CONNECTION = 500
"""Number of calls after which a connection is replaced."""
PATHS = {"call": "fast", "call streamed": "paced", "call cancelled": "paced", "call failing": "failing"}


class MixedGrpcCalls:
    """Sends gRPC calls of the given kinds."""

    def __init__(self, gateway: Gateway, bodies: Sequence[dict[str, Any]], timeout: float) -> None:
        self._address = f"{HOST}:{gateway.grpc}"
        self._metadata = tuple(gateway.headers.items())
        self._bodies = bodies
        self._timeout = timeout
        self._generator = random.Random(7)
        self._channels: list[grpc.aio.Channel] = []
        self._made = 0

    async def ask(self, kind: str) -> str:
        """Sends a call of this kind, and returns the outcome in words."""
        stub = gateway_pb2_grpc.GatewayStub(await self._channel())
        request, options = self._request(PATHS[kind]), {"metadata": self._metadata, "timeout": self._timeout}
        try:
            if kind == "call streamed":
                kinds = [one.WhichOneof("event") async for one in stub.GenerateStream(request, **options)]
                return f"{kinds.count('delta')} deltas, {kinds[0]}, {kinds[-1]}"
            if kind == "call cancelled":
                return await _cancel(stub.GenerateStream(request, **options))
            return str((await stub.Generate(request, **options)).choices[0].finish_reason)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def _channel(self) -> grpc.aio.Channel:
        self._made += 1
        if len(self._channels) < CONNECTIONS or self._made % CALLS_PER_CONNECTION == 0:
            own = (("grpc.use_local_subchannel_pool", 1),)  # otherwise all channels would share one connection
            self._channels.append(grpc.aio.insecure_channel(self._address, options=own))
        if len(self._channels) > CONNECTIONS:
            await self._channels.pop(0).close(grace=self._timeout)
        return self._generator.choice(self._channels)

    def _request(self, path: str) -> pb.GenerateRequest:
        bodies = self._generator.choice(self._bodies)
        messages = [pb.Message(role=message["role"], content=message["content"]) for message in bodies["messages"]]
        return pb.GenerateRequest(model=f"path:{path}", messages=messages, sampling=pb.Sampling(max_tokens=64))


async def _cancel(call: Any) -> str:
    """Cancels the call at the first delta, and returns the outcome."""
    async for response in call:
        if response.WhichOneof("event") == "delta":
            call.cancel()
            return "disconnected"
    return "already answered"


def expected(chunks: int) -> dict[str, Callable[[str], bool]]:
    """Returns a check of the outcome for each kind; a stream has `chunks` chunks."""
    return {
        "call": lambda outcome: outcome == "stop",
        "call streamed": lambda outcome: outcome == f"{chunks + 1} deltas, started, finished",
        "call cancelled": lambda outcome: outcome == "disconnected",
        "call failing": lambda outcome: outcome.startswith("UNAVAILABLE"),
    }
