"""Measures gRPC calls with 64 in progress: to the gateway, and to a server that only sends such answers."""

import asyncio
import sys
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
from benchmarks.gateway_load.machine import ROOT, CannotMeasure, Cores, free_ports
from benchmarks.gateway_load.our_gateway import Gateway
from benchmarks.gateway_load.processes import ManagedProcess, Processes

IN_FLIGHT = 64
CONNECTIONS = 4
DEADLINE = 20.0
MODEL = "path:fast"
METHODS = ("Generate", "GenerateStream")

Call = Callable[[Any], Awaitable[None]]
"""Sends one request and reads all of its answer."""


@dataclass(frozen=True, slots=True)
class Server:
    process: ManagedProcess
    port: int
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CallStatistics:
    per_second: float
    p50_ms: float
    cpu_us: float
    busy: float
    """Share of the server's core; if it is well below 1, the client was the bottleneck."""
    failed: int


@dataclass(frozen=True, slots=True)
class MethodStatistics:
    ours: CallStatistics
    empty: CallStatistics
    """The statistics of the server in `empty_grpc_server`."""

    @property
    def ratio(self) -> float:
        """The CPU time of a call to the gateway, relative to that of a call to the empty server."""
        return self.ours.cpu_us / self.empty.cpu_us


async def start_empty_server(processes: Processes, cores: Cores) -> Server:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.gateway_load.empty_grpc_server", str(port)]
    process = processes.start("empty-grpc", cores.measured, command, {"PYTHONPATH": str(ROOT)})
    server = Server(process, port)
    await process.until_ready(lambda: _answers(server), timeout_s=20)
    return server


async def measure(
    gateway: Gateway, empty: Server, body: dict[str, Any], rounds: int, seconds: float
) -> dict[str, MethodStatistics]:
    """Measures the methods of both servers in turns. Raises CannotMeasure."""
    ours = Server(gateway.process, gateway.grpc, tuple(gateway.headers.items()))
    if not await _answers(ours, body):
        raise CannotMeasure("the gateway answers no gRPC call")
    found: dict[str, list[tuple[CallStatistics, CallStatistics]]] = {method: [] for method in METHODS}
    for round_number in range(rounds + 1):
        for method in METHODS:
            seconds_now = seconds if round_number else 1.0
            pair = [await _round(server, method, body, seconds_now) for server in (ours, empty)]
            if round_number:  # the first one is the warm-up
                found[method].append((pair[0], pair[1]))
    return {
        method: MethodStatistics(_median([ours for ours, _ in pairs]), _median([empty for _, empty in pairs]))
        for method, pairs in found.items()
    }


def _median(rounds: list[CallStatistics]) -> CallStatistics:
    return CallStatistics(
        per_second=median(one.per_second for one in rounds),
        p50_ms=median(one.p50_ms for one in rounds),
        cpu_us=median(one.cpu_us for one in rounds),
        busy=median(one.busy for one in rounds),
        failed=sum(one.failed for one in rounds),
    )


def _request(body: dict[str, Any]) -> pb.GenerateRequest:
    messages = [pb.Message(role=message["role"], content=message["content"]) for message in body["messages"]]
    sampling = pb.Sampling(max_tokens=body["max_tokens"], temperature=body["temperature"])
    return pb.GenerateRequest(model=MODEL, messages=messages, sampling=sampling)


async def _answers(server: Server, body: dict[str, Any] | None = None) -> bool:
    request = _request(body) if body else pb.GenerateRequest()
    async with grpc.aio.insecure_channel(f"{HOST}:{server.port}") as channel:
        try:
            await gateway_pb2_grpc.GatewayStub(channel).Generate(request, metadata=server.metadata, timeout=DEADLINE)
        except grpc.aio.AioRpcError:
            return False
    return True


def _call(channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...]) -> Call:
    stub = gateway_pb2_grpc.GatewayStub(channel)

    async def generate(request: Any) -> None:
        await stub.Generate(request, metadata=metadata, timeout=DEADLINE)

    async def generate_stream(request: Any) -> None:
        async for _ in stub.GenerateStream(request, metadata=metadata, timeout=DEADLINE):
            pass

    return generate if method == "Generate" else generate_stream


async def _round(server: Server, method: str, body: dict[str, Any], seconds: float) -> CallStatistics:
    request = _request(body)
    own = (("grpc.use_local_subchannel_pool", 1),)  # otherwise all channels would share one connection
    channels = [grpc.aio.insecure_channel(f"{HOST}:{server.port}", options=own) for _ in range(CONNECTIONS)]
    calls = [_call(channel, method, server.metadata) for channel in channels]
    waited: list[float] = []
    failed = 0

    async def ask(call: Call) -> None:
        nonlocal failed
        while (started := time.monotonic()) < until:
            try:
                await call(request)
                waited.append(time.monotonic() - started)
            except grpc.aio.AioRpcError:
                failed += 1

    try:
        await asyncio.gather(*(call(request) for call in calls))  # connects
        cpu, started = server.process.cpu_seconds(), time.monotonic()
        until = started + seconds
        await asyncio.gather(*(ask(calls[number % len(calls)]) for number in range(IN_FLIGHT)))
        took, spent = time.monotonic() - started, server.process.cpu_seconds() - cpu
    except grpc.aio.AioRpcError as error:
        raise CannotMeasure(f"the gRPC server fails: {error.code().name} {error.details()}") from error
    finally:
        for channel in channels:
            await channel.close()
    count = max(len(waited), 1)
    p50 = 1e3 * float(np.median(waited)) if waited else float("inf")
    return CallStatistics(len(waited) / took, p50, 1e6 * spent / count, spent / took, failed)
