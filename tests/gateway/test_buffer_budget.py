"""The bytes of buffered requests have one limit, shared by HTTP and gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.grpc.servicer import SERVICE, Authentication, GatewayServicer
from pointsman_gateway.http.app import build_app
from pointsman_gateway.http.fast_reader import ChatReader
from pointsman_gateway.http.server import serve_http
from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import serving

from tests.gateway.doubles.engine import ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, http_dependencies
from tests.gateway.doubles.waiting import until

MAX_BYTES = 200_000
"""The gateway's limit in bytes; one tenant may use half of it."""
CHAT = "/v1/chat/completions"


@dataclass
class Servers:
    """The gateway's servers, which share a small budget."""

    budget: BufferedBytesBudget
    client: httpx.AsyncClient
    address: str
    stub: gateway_pb2_grpc.GatewayStub

    async def ask(self, *, characters: int = 10, path: str = CHAT, **fields: object) -> httpx.Response:
        messages = [{"role": "user", "content": "x" * characters}]
        return await self.client.post(path, json={"model": "path:small_talk", "messages": messages, **fields})

    @asynccontextmanager
    async def sending(self, path: str, sent: int, length: int) -> AsyncIterator[asyncio.StreamWriter]:
        """Yields a connection that has sent `sent` bytes of a body of `length` bytes; it is aborted at the end."""
        host, port = self.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        writer.write(head.encode() + b'{"model": "' + b"x" * (sent - 11))
        try:
            yield writer
        finally:
            writer.transport.abort()


@pytest.fixture(params=["uvicorn", "fast reader"])
async def servers(gateway: Gateway, request: pytest.FixtureRequest) -> AsyncIterator[Servers]:
    components, budget = gateway.components, BufferedBytesBudget(MAX_BYTES)
    dependencies = http_dependencies(components, budget=budget)
    reader = ChatReader(dependencies) if request.param == "fast reader" else None
    servicer = GatewayServicer(components.pipeline, components.feedback, 10, components.reloader)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        address = await enter(serve_http(build_app(dependencies), "127.0.0.1:0", grace=1, chat_reader=reader))
        server = await enter(
            serving(
                "127.0.0.1:0",
                [SERVICE],
                lambda to: gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, to),
                grace=1,
                gate=Authentication(components.pipeline, components.tenancy),
                budget=budget,
            )
        )
        client = await enter(httpx.AsyncClient(base_url=f"http://{address}", timeout=10, verify=False))
        stub = gateway_pb2_grpc.GatewayStub(await enter(open_channel(server.address)))
        yield Servers(budget, client, address, stub)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/route", "/v1/embeddings"])
async def test_a_body_that_exceeds_the_budget_is_answered_503(
    servers: Servers, gateway: Gateway, engine: ScriptedEngine, path: str
) -> None:
    engine.says(*answer("Hello"))
    response = await servers.ask(characters=MAX_BYTES // 2, path=path)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert response.headers["retry-after"] == "1"
    assert gateway.metric("pointsman_rejected_total", code="overloaded") == 1
    assert servers.budget.used == 0
    assert (await servers.ask()).status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/route"])
async def test_a_partial_body_counts_until_its_client_disconnects(
    servers: Servers, engine: ScriptedEngine, path: str
) -> None:
    engine.says(*answer("Hello"))
    async with servers.sending(path, 50_000, 90_000):
        await until(lambda: servers.budget.used >= 50_000)
        response = await servers.ask(characters=60_000)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert (await servers.ask()).status_code == 200, "a small body still fits"
    await until(lambda: servers.budget.used == 0)
    assert (await servers.ask(characters=60_000)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_counts_until_its_answer_ends(servers: Servers, engine: ScriptedEngine, stream: bool) -> None:
    goes_on = asyncio.Event()
    engine.says(*beginning("Hello"), goes_on, *answer(" there")[1:])
    first = asyncio.create_task(servers.ask(characters=60_000, stream=stream))
    await until(lambda: bool(engine.bodies))
    assert 60_000 < servers.budget.used < 61_000
    assert (await servers.ask(characters=60_000)).status_code == 503
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await servers.stub.Route(pb.RouteRequest(model="auto", messages=[pb.Message(content="x" * 60_000)]))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    goes_on.set()
    assert (await first).status_code == 200
    await until(lambda: servers.budget.used == 0)


async def test_a_disconnected_client_frees_its_bytes(servers: Servers, engine: ScriptedEngine) -> None:
    engine.says(*beginning("Hello"), asyncio.Event())
    body = json.dumps({"model": "path:small_talk", "messages": [{"role": "user", "content": "x" * 60_000}]}).encode()
    host, port = servers.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    await until(lambda: bool(engine.bodies) and servers.budget.used > 60_000)
    writer.transport.abort()
    await until(lambda: servers.budget.used == 0)
