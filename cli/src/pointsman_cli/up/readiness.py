"""Waits until a service or an engine is ready, or raises CommandError after a time limit."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pointsman.v1 import lora_server_pb2
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import lora_server_stub, open_anonymous_channel, open_channel

SERVICE_SECONDS = 300.0  # the gateway fits its classifier before it serves
ENGINE_SECONDS = 600.0
ENGINE_TRIES = 3
_INTERVAL = 0.2  # seconds between two polls
CALL_SECONDS = 2.0


async def wait_for_valkey(socket: str) -> None:
    await _within(SERVICE_SECONDS, "valkey", _until(lambda: _ping(socket)))


async def wait_until_serving(address: str, name: str) -> None:
    """Waits until the gRPC health check of the service at `address` ("HOST:PORT") reports SERVING.

    Raises CommandError, which names the service by `name`, after SERVICE_SECONDS.
    """
    async with open_anonymous_channel(address) as channel:
        await _within(SERVICE_SECONDS, name, _until(lambda: is_serving(channel)))


async def is_serving(channel: grpc.aio.Channel) -> bool:
    try:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # its types name no methods
        answer = await check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def wait_for_http(url: str) -> None:
    """Waits until /readyz of the gateway at the base URL `url` succeeds; raises CommandError after SERVICE_SECONDS."""
    async with open_async_client(timeout=CALL_SECONDS, trust_env=False) as client:
        await _within(
            SERVICE_SECONDS, "the gateway's HTTP server", _until(lambda: _answers_ok(client, f"{url}/readyz"))
        )


async def _answers_ok(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.RequestError:
        return False


async def wait_for_engine(address: str, say: Callable[[str], None]) -> None:
    """Waits until the engine of the lora-server at `address` is ready, and calls `say` with status messages meanwhile.

    Raises CommandError if the engine was restarted ENGINE_TRIES times, or is not ready after ENGINE_SECONDS.
    """
    async with open_channel(address) as channel:
        await _within(ENGINE_SECONDS, "the engine", _until(lambda: _engine_is_ready(channel, say)))


async def _engine_is_ready(channel: grpc.aio.Channel, say: Callable[[str], None]) -> bool:
    try:
        async for state in lora_server_stub(channel).Watch(lora_server_pb2.WatchRequest()):
            if state.status == lora_server_pb2.ENGINE_STATUS_READY:
                return True
            if state.engine_restarts >= ENGINE_TRIES:
                raise CommandError(f"the engine does not start: {state.detail}; the lora-server's log says more")
            if state.detail:
                say(state.detail)
    except grpc.RpcError:
        return False
    return False


async def _ping(socket: str) -> bool:
    """Returns whether a Redis-protocol server at this Unix socket answers PING with PONG."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError):
        return False


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110 -- the event would have to come from another process
        await asyncio.sleep(_INTERVAL)


async def _within(seconds: float, name: str, waiting: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        raise CommandError(f"{name} was not ready after {seconds:g} s") from None
