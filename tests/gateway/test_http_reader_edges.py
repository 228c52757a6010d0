"""The fast HTTP reader in unusual cases: nothing leaks if a request turns out to be unsupported or ends
unexpectedly."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.domain import Caller, Chunks, Decision, Message, Request, Sampling, Started
from pointsman_gateway.engines.connection_pool import Pool
from pointsman_gateway.engines.engine_client import EngineRequest, Transfer, TransientFailure
from pointsman_gateway.engines.http1 import EngineConnection
from pointsman_gateway.engines.http_engine_client import HttpEngineClient
from pointsman_gateway.http.app import build_app
from pointsman_gateway.http.connection_limits import RESERVED_CONNECTIONS, ConnectionLimits
from pointsman_gateway.http.fast_connection import FastConnection
from pointsman_gateway.http.fast_reader import ChatReader
from pointsman_gateway.http.server import serve_http
from pointsman_gateway.http.sinks import ConnectionSink
from pointsman_gateway.ports import ChunkSink
from pointsman_servicekit.grpc_client import open_channel
from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.gateway.doubles.engine import DONE, ScriptedEngine, answer, beginning
from tests.gateway.doubles.garbage import nothing_is_left
from tests.gateway.doubles.gateway import Gateway, Neighbours, http_dependencies
from tests.gateway.doubles.raw_engine import HEAD, LAST, event, in_chunks, running_raw_engine
from tests.gateway.doubles.waiting import until

MANY = [f"x-{number}: 1" for number in range(150)]


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    to = urlsplit(url)
    reader, writer = await asyncio.open_connection(to.hostname, to.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(model: str, *headers: str, stream: bool = False) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_too_many_headers_are_rejected(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    for model in ("path:handbook", "path:small_talk"):
        async with connected(gateway.url) as (reader, writer):
            writer.write(request(model, *MANY))
            assert (await reader.read()).startswith(b"HTTP/1.1 431"), model
        assert gateway.metric("pointsman_in_flight") == 0, model


async def test_the_header_limit_applies_to_every_request(gateway: Gateway) -> None:
    components = gateway.components
    dependencies = http_dependencies(components)
    strict = ConnectionLimits(max_headers=10)
    async with (
        serve_http(
            build_app(dependencies), "127.0.0.1:0", grace=1, limits=strict, chat_reader=ChatReader(dependencies)
        ) as address,
        connected(f"http://{address}") as (reader, writer),
    ):
        writer.write(request("path:handbook", *MANY[:20]))
        assert (await reader.read()).startswith(b"HTTP/1.1 431")
    assert gateway.metric("pointsman_in_flight") == 0


async def test_uvicorn_takes_over_a_partially_read_request(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    async with connected(gateway.url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nx-header: ")
        await reader.readuntil(b"\r\n\r\n")
        before = await reader.read(1024)
        writer.write(request("path:small_talk"))
        result = await reader.readuntil(b"\r\n\r\n")
    assert b"x-pointsman-decision-id" not in before + result
    assert not engine.bodies


async def test_data_after_the_end_of_an_answer_is_not_used(neighbours: Neighbours) -> None:
    word = {"choices": [{"index": 0, "delta": {"content": "mine"}}]}
    late = {"choices": [{"index": 0, "delta": {"content": "theirs"}}]}
    goes_on = asyncio.Event()
    async with running_raw_engine() as raw:
        neighbours.engine.url = raw.url
        await neighbours.ready()
        async with neighbours.gateway() as gateway, connected(gateway.url) as (reader, writer):
            raw.says(HEAD, in_chunks([event(word), b"data: [DONE]\n\n"]), goes_on, in_chunks([event(late)]), LAST)
            writer.write(request("path:small_talk", stream=True))
            assert b"mine" in await reader.readuntil(b"0\r\n\r\n")
            goes_on.set()
            await until(lambda: raw.running == 0)
            raw.says(HEAD, in_chunks([event(word), b"data: [DONE]\n\n"]), LAST)
            writer.write(request("path:small_talk", stream=True))
            assert b"theirs" not in await reader.readuntil(b"0\r\n\r\n")


async def test_a_request_cut_at_its_end_has_a_receipt(neighbours: Neighbours, engine: ScriptedEngine) -> None:
    engine.says(*beginning("Hello"), asyncio.Event())
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        to = urlsplit(gateway.url)
        reader, writer = await asyncio.open_connection(to.hostname, to.port)
        writer.write(request("path:small_talk", stream=True))
        await reader.readuntil(b"Hello")
    writer.transport.abort()
    assert gateway.metric("pointsman_in_flight") == 0
    assert gateway.metric("pointsman_requests_total", outcome="cancelled") == 1


class Received:
    """Implements `ChunkSink`; records the chunks and the end."""

    def __init__(self) -> None:
        self.parts: list[object] = []

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.parts.append(chunks)

    def ended(self, error: Exception | None) -> None:
        self.parts.append(error)


class Connecting(HttpEngineClient):
    """A client without an open connection, which performs an action as soon as it has one."""

    def __init__(self, then: Callable[[EngineConnection], Awaitable[None]]) -> None:
        super().__init__(Pool())
        self.connections: list[EngineConnection] = []
        self._then = then

    async def connect(self, request: EngineRequest) -> EngineConnection:
        connection = await super().connect(request)
        self.connections.append(connection)
        await self._then(connection)
        return connection


def sent_by(engine: ScriptedEngine, client: HttpEngineClient) -> tuple[Transfer, Received]:
    received = Received()
    deadline = asyncio.get_running_loop().time() + 10
    asked = EngineRequest("a", engine.url, "tiny", (Message("user", "Hello"),), Sampling(), deadline)
    return client.send(asked, received), received


async def test_a_connection_opened_too_late_is_closed_unused(engine: ScriptedEngine) -> None:
    async def close_next(connection: EngineConnection) -> None:
        asyncio.get_running_loop().call_soon(transfer.close)  # once there is a result

    client = Connecting(close_next)
    transfer, received = sent_by(engine, client)
    await until(lambda: client.connections and not client.connections[0].is_open)
    assert not engine.bodies
    assert not received.parts


async def test_a_connection_lost_before_its_use_is_a_failure(engine: ScriptedEngine) -> None:
    async def lose(connection: EngineConnection) -> None:
        connection.close()
        await until(lambda: connection.failure)

    _, received = sent_by(engine, Connecting(lose))
    await until(lambda: received.parts)
    assert isinstance(received.parts[0], TransientFailure)


@pytest.mark.parametrize("beside", [{}, {"top_k": 3}], ids=["our reader", "uvicorn"])
async def test_a_number_without_a_json_form_is_rejected(gateway: Gateway, beside: dict[str, int]) -> None:
    asked = {"model": "path:small_talk", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10**400}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10, verify=False) as client:
        response = await client.post("/v1/chat/completions", json=asked | beside)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "max_tokens")
    assert gateway.metric("pointsman_in_flight") == 0
    assert gateway.metric("pointsman_engine_in_flight") == 0


async def test_a_client_that_does_not_read_a_plain_answer_is_disconnected(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*answer(*["x" * 2**20] * 16))
    components, refusals = gateway.components, list[str]()
    dependencies = http_dependencies(components)
    brisk = ConnectionLimits(idle_timeout=0.2, stall_timeout=0.2, on_rejection=refusals.append)
    async with (
        serve_http(
            build_app(dependencies), "127.0.0.1:0", grace=1, limits=brisk, chat_reader=ChatReader(dependencies)
        ) as address,
        connected(f"http://{address}") as (_, writer),
    ):
        writer.write(request("path:small_talk"))
        await until(lambda: refusals == ["reads_nothing"], within=20)


class Wire(asyncio.Transport):
    """A transport that still delivers received data after `close`, as asyncio's TLS transport does."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__()
        self.written = b""
        self._closing = False
        self._log = log

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        if self._log is not None:
            self._log.append("written")

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self._closing = True

    def is_closing(self) -> bool:
        return self._closing


class LostWire(Wire):
    """A transport that raises on writes after the client has disconnected, as uvloop's does."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        super().write(data)


async def test_an_answer_to_a_client_that_is_gone_is_cancelled_and_no_error(
    gateway: Gateway, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = asyncio.Event()
    engine.says(*beginning("Hello"), goes_on, *beginning("there"), asyncio.Event())
    dependencies = http_dependencies(gateway.components)
    config, reader = Config(build_app(dependencies), log_config=None), ChatReader(dependencies)
    connection, wire = FastConnection(config, ServerState(), {}, ConnectionLimits(), reader), LostWire()
    connection.connection_made(wire)
    connection.data_received(request("path:small_talk", stream=True))
    await until(lambda: b"Hello" in wire.written)
    wire.close()
    sent = engine.sent
    goes_on.set()
    await until(lambda: engine.sent >= sent + 2)
    connection.connection_lost(None)
    await until(lambda: gateway.metric("pointsman_in_flight") == 0)
    assert gateway.metric("pointsman_requests_total", outcome="cancelled") == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_connection_that_breaks_while_idle_keeps_no_timer(gateway: Gateway) -> None:
    dependencies = http_dependencies(gateway.components)
    config, reader = Config(build_app(dependencies), log_config=None), ChatReader(dependencies)
    connection, wire = FastConnection(config, ServerState(), {}, ConnectionLimits(), reader), Wire()
    connection.connection_made(wire)
    connection.data_received(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    await until(lambda: connection.timeout_keep_alive_task is not None)
    connection.connection_lost(ConnectionResetError())
    assert connection.timeout_keep_alive_task is None


async def test_a_disconnect_cancels_the_answer_before_pipelined_requests(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("Hello"), asyncio.Event())
    async with connected(gateway.url) as (reader, writer):
        by_uvicorn = request("path:small_talk", stream=True).replace(b"completions HTTP", b"completions? HTTP")
        writer.write(by_uvicorn * 3)
        await reader.readuntil(b"Hello")
        assert engine.running == 1
    await until(lambda: engine.running == 0)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert gateway.metric("pointsman_in_flight") == 0


async def test_connections_beyond_the_limit_are_not_read(gateway: Gateway) -> None:
    components = gateway.components
    dependencies = http_dependencies(components)
    config, full = Config(build_app(dependencies), log_config=None), ConnectionLimits(max_connections=0)
    state = ServerState()
    for _ in range(RESERVED_CONNECTIONS):
        FastConnection(config, state, {}, full, ChatReader(dependencies)).connection_made(Wire())
    connection, wire = FastConnection(config, state, {}, full, ChatReader(dependencies)), Wire()
    connection.connection_made(wire)
    connection.data_received(request("path:small_talk"))
    assert wire.written.startswith(b"HTTP/1.1 503")
    assert gateway.metric("pointsman_in_flight") == 0


@dataclass
class Logged:
    """Implements `RequestLog`, `Tenancy` and `Reservation`, and records the order of calls."""

    inner: Any
    log: list[str]

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return bool(self.inner.wants_answers(request, decision))

    def note(self, *what: Any) -> None:
        self.log.append("noted")
        self.inner.note(*what)

    def enter_now(self, caller: Caller, tokens: int) -> "Logged | None":
        self.log.append("entered")
        hold = self.inner.enter_now(caller, tokens)
        return hold and Logged(hold, self.log)

    @property
    def headers(self) -> Mapping[str, str]:
        return {**self.inner.headers}

    @property
    def has_budget(self) -> bool:
        return bool(self.inner.has_budget)

    def afford_now(self, usd: float) -> bool:
        return bool(self.inner.afford_now(usd))

    def settle(self, *what: Any) -> None:
        self.log.append("settled")
        self.inner.settle(*what)


async def test_an_answer_is_logged_sent_and_settled_before_the_next_request(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*answer("Hello", " there"))
    components, log = gateway.components, list[str]()
    request_log: Any = Logged(components.pipeline.request_log, log)  # it has the methods that the pipeline calls
    tenancy: Any = Logged(components.pipeline.tenancy, log)
    pipeline = replace(components.pipeline, request_log=request_log, tenancy=tenancy)
    dependencies = replace(http_dependencies(components), pipeline=pipeline)
    connection = FastConnection(
        Config(build_app(dependencies), log_config=None),
        ServerState(),
        {},
        ConnectionLimits(),
        ChatReader(dependencies),
    )
    wire = Wire(log)
    connection.connection_made(wire)
    connection.data_received(request("path:small_talk"))
    connection.data_received(request("path:small_talk"))
    await until(lambda: log.count("settled") == 2)
    connection.connection_lost(None)
    assert log == ["entered", "noted", "written", "settled"] * 2
    assert len(engine.connections) == 1
    assert wire.written.count(b"HTTP/1.1 200 OK") == 2


async def test_a_failure_at_the_last_chunk_releases_the_client_once(
    gateway: Gateway, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request is in progress by then, and must not be confused with the failed one."""
    whole = b"".join([event(step) for step in answer("Hello", " there") if isinstance(step, dict)]) + DONE
    goes_on = asyncio.Event()
    engine.script = lambda body: [goes_on, whole] if len(engine.bodies) == 1 else [*beginning("Hello"), asyncio.Event()]
    takes = ConnectionSink.chunks

    def breaks_once(sink: ConnectionSink, chunks: Chunks, last: bool) -> None:
        if len(engine.bodies) == 1:
            raise ValueError("nobody foresaw this")
        takes(sink, chunks, last)

    monkeypatch.setattr(ConnectionSink, "chunks", breaks_once)
    async with connected(gateway.url) as (reader, writer):
        writer.write(request("path:small_talk"))
        await until(lambda: len(engine.bodies) == 1)
        writer.write(request("path:small_talk", stream=True))
        await asyncio.sleep(0.1)
        goes_on.set()
        assert b" 500 " in await reader.readline()
        await until(lambda: len(engine.bodies) == 2)
        writer.write(request("path:small_talk", stream=True))
        await asyncio.sleep(0.2)
        assert len(engine.bodies) == 2, "two are under way on one connection"


async def test_an_exception_after_the_engine_call_releases_the_engine(
    gateway: Gateway, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says(*beginning("Hello"), asyncio.Event())

    def broken(sink: ConnectionSink, started: Started) -> None:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr(ConnectionSink, "started", broken)
    async with connected(gateway.url) as (reader, writer):
        writer.write(request("path:small_talk"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 500")
    assert gateway.metric("pointsman_engine_in_flight") == 0
    assert gateway.metric("pointsman_in_flight") == 0
    assert gateway.metric("pointsman_requests_total", outcome="internal") == 1


async def test_a_request_without_an_engine_leaves_no_garbage(neighbours: Neighbours) -> None:
    neighbours.engine.url = "http://127.0.0.1:9"  # no server listens there
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)

        async def ask() -> None:
            gateway.components.engines.state("local").breaker = Breaker()
            async with connected(gateway.url) as (reader, writer):
                writer.write(request("path:small_talk"))
                assert b" 503 " in await reader.readline()
            for model in ("path:small_talk", "nobody"):
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.Generate(
                        pb.GenerateRequest(model=model, messages=[pb.Message(role="user", content="Hello")])
                    )
            await asyncio.sleep(0.1)

        await ask()
        await nothing_is_left(ask)


async def test_a_pipelined_request_has_its_own_id(neighbours: Neighbours) -> None:
    word = {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}
    heads: list[bytes] = []

    async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD + in_chunks([event(word), b"data: [DONE]\n\n"]) + LAST)
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")  # after the first request's body
        writer.transport.abort()

    engine = await asyncio.start_server(answers_once, "127.0.0.1", 0)
    neighbours.engine.url = "http://{}:{}".format(*engine.sockets[0].getsockname())
    await neighbours.ready()
    async with neighbours.gateway() as gateway, connected(gateway.url) as (reader, writer):
        for name in ("first", "second"):
            writer.write(request("path:small_talk", f"x-request-id: {name}", stream=True))
            assert b"Hello" in await reader.readuntil(b"0\r\n\r\n")
    engine.close()
    assert [b"x-request-id: second" in head for head in heads] == [False, True]


async def test_an_unexpected_exception_leaves_no_engine_busy(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(client: HttpEngineClient, request: EngineRequest, sink: ChunkSink) -> Transfer:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr(HttpEngineClient, "send", broken)
    async with connected(gateway.url) as (reader, writer):
        writer.write(request("path:small_talk"))
        assert b" 500 " in await reader.readline()
    assert gateway.metric("pointsman_engine_in_flight") == 0
    assert gateway.metric("pointsman_in_flight") == 0
