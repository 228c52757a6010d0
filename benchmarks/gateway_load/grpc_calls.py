"""Measures gRPC calls per second with 64 calls in flight."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import grpc
import numpy as np
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc

from benchmarks.gateway_load.http_client import HOST
from benchmarks.gateway_load.machine import CannotMeasure
from benchmarks.gateway_load.our_gateway import Gateway

IN_FLIGHT = 64
CONNECTIONS = 4
DEADLINE = 20.0
MODEL = "path:fast"


@dataclass(frozen=True, slots=True)
class CallStatistics:
    method: str
    per_second: float
    p50_ms: float
    cpu_us: float
    busy: float
    """Share of the gateway's core; if it is well below 1, the client was the bottleneck."""
    failed: int


async def measure(gateway: Gateway, bodies: list[dict[str, Any]], rounds: int, seconds: float) -> CallStatistics:
    own = (("grpc.use_local_subchannel_pool", 1),)  # otherwise all channels would share one connection
    channels = [grpc.aio.insecure_channel(f"{HOST}:{gateway.grpc}", options=own) for _ in range(CONNECTIONS)]
    try:
        stubs = [gateway_pb2_grpc.GatewayStub(channel) for channel in channels]
        name, request = await _method(stubs[0], bodies[0], gateway)
        calls = [getattr(stub, name) for stub in stubs]
        await _round(gateway, calls, request, 1.0)  # warm-up
        found = [await _round(gateway, calls, request, seconds) for _ in range(rounds)]
    finally:
        for channel in channels:
            await channel.close()
    return CallStatistics(
        method=name,
        per_second=median(one.per_second for one in found),
        p50_ms=median(one.p50_ms for one in found),
        cpu_us=median(one.cpu_us for one in found),
        busy=median(one.busy for one in found),
        failed=sum(one.failed for one in found),
    )


async def _method(stub: Any, bodies: dict[str, Any], gateway: Gateway) -> tuple[str, Any]:
    """Returns the first of Generate and Route that answers, with its request. Raises CannotMeasure if neither does."""
    messages = [pb.Message(role=message["role"], content=message["content"]) for message in bodies["messages"]]
    sampling = pb.Sampling(max_tokens=bodies["max_tokens"], temperature=bodies["temperature"])
    output: dict[str, Any] = {"model": MODEL, "messages": messages, "sampling": sampling}
    why = ""
    for name, request in (("Generate", pb.GenerateRequest(**output)), ("Route", pb.RouteRequest(**output))):
        if hasattr(stub, name):
            try:
                await getattr(stub, name)(request, metadata=tuple(gateway.headers.items()), timeout=DEADLINE)
                return name, request
            except grpc.aio.AioRpcError as error:
                why = f"{name}: {error.code().name} {error.details()}"
    raise CannotMeasure(f"the gRPC server answers no unary call ({why})")


async def _round(
    gateway: Gateway, calls: list[Callable[..., Awaitable[Any]]], request: Any, seconds: float
) -> CallStatistics:
    metadata = tuple(gateway.headers.items())
    until = time.monotonic() + seconds
    waited: list[float] = []
    failed = 0

    async def ask(call: Callable[..., Awaitable[Any]]) -> None:
        nonlocal failed
        while (started := time.monotonic()) < until:
            try:
                await call(request, metadata=metadata, timeout=DEADLINE)
                waited.append(time.monotonic() - started)
            except grpc.aio.AioRpcError:
                failed += 1

    cpu, started = gateway.process.cpu_seconds(), time.monotonic()
    await asyncio.gather(*(ask(calls[number % len(calls)]) for number in range(IN_FLIGHT)))
    took, spent = time.monotonic() - started, gateway.process.cpu_seconds() - cpu
    count = max(len(waited), 1)
    p50 = 1e3 * float(np.median(waited)) if waited else float("inf")
    return CallStatistics("", len(waited) / took, p50, 1e6 * spent / count, spent / took, failed)
