"""Clients that send too much, too slowly, or do not read are disconnected; others are not affected."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from pointsman_gateway.http.connection_limits import RESERVED_CONNECTIONS, ConnectionLimits
from pointsman_gateway.http.server import serve_http

from tests.gateway.doubles.waiting import until

LONG = 60.0
BRISK = ConnectionLimits(
    header_timeout=LONG, body_timeout=LONG, idle_timeout=LONG, stall_timeout=LONG, max_headers=10, max_header_bytes=4096
)
"""Timeouts long enough for a busy machine; each test shortens the one that it tests."""
SOON = 0.2


class App:
    """An ASGI application that reads the body and answers with its length, or with more than any buffer can store."""

    def __init__(self) -> None:
        self.begun = 0
        self.bodies: list[bytes] = []
        self.gone = 0
        self.big = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        self.begun += 1
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if self.big:
            while not (await _sends(send, b"x" * 65536, receive)):
                pass
            self.gone += 1
            return
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


async def _lifespan(receive: Any, send: Any) -> None:
    while (what := (await receive())["type"]) != "lifespan.shutdown":
        await send({"type": f"{what}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _sends(send: Any, piece: bytes, receive: Any) -> bool:
    """Sends a piece of the answer; returns whether the client has disconnected."""
    await send({"type": "http.response.body", "body": piece, "more_body": True})
    hung_up = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    if hung_up.done():
        return bool(hung_up.result()["type"] == "http.disconnect")
    hung_up.cancel()
    return False


@dataclass
class Client:
    """A connection that sends given bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Returns status and body of the next answer."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            if b"chunked" in head:
                size = int(await self.reader.readline(), 16)
                body = await self.reader.readexactly(size)
                assert await self.reader.readexactly(7) == b"\r\n0\r\n\r\n"
            else:
                size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await self.reader.readexactly(size)
        return int(head.split(b" ")[1]), body

    async def refusal(self) -> tuple[int, str]:
        """Returns the status and code of an error, and asserts that the connection is closed afterwards."""
        status, body = await self.answer()
        await self.closed()
        return status, json.loads(body)["error"]["code"]

    async def closed(self) -> None:
        async with asyncio.timeout(20):
            with suppress(ConnectionResetError):
                assert await self.reader.read() == b""


Connect = Callable[[], Any]


@pytest.fixture
def app() -> App:
    return App()


@asynccontextmanager
async def connecting(app: App, limits: ConnectionLimits) -> AsyncIterator[Connect]:
    clients: list[Client] = []
    async with serve_http(app, "127.0.0.1:0", limits=limits, grace=1) as address:
        host, _, port = address.rpartition(":")

        async def connect() -> Client:
            clients.append(Client(*await asyncio.open_connection(host, int(port), limit=2**20)))
            return clients[-1]

        try:
            yield connect
        finally:
            for client in clients:
                client.writer.transport.abort()


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


async def test_an_ordinary_client_can_reuse_its_connection(app: App) -> None:
    async with connecting(app, BRISK) as connect:
        client = await connect()
        for piece in b"abc", b"", b"x" * 300_000:
            await client.send(HEAD + b"content-length: %d\r\n\r\n" % len(piece) + piece)
            assert await client.answer() == (200, str(len(piece)).encode())


async def test_requests_may_arrive_byte_by_byte_or_pipelined(app: App) -> None:
    async with connecting(app, BRISK) as connect:
        client = await connect()
        for byte in HEAD + b"content-length: 2\r\n\r\nab":
            await client.send(bytes([byte]))
        assert await client.answer() == (200, b"2")
        await client.send((HEAD + b"content-length: 1\r\n\r\na") * 3)
        assert [await client.answer() for _ in range(3)] == [(200, b"1")] * 3


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST / HT", HEAD, HEAD + b"x-half: "])
async def test_missing_headers_time_out(app: App, sent: bytes) -> None:
    async with connecting(app, replace(BRISK, header_timeout=SOON)) as connect:
        client = await connect()
        await client.send(sent)
        assert await client.refusal() == (408, "slow_headers")
        assert app.begun == 0


async def test_slow_headers_time_out(app: App) -> None:
    async with connecting(app, replace(BRISK, header_timeout=SOON)) as connect:
        client = await connect()
        await client.send(HEAD)
        dripping = asyncio.create_task(_drip(client, b"x: y\r\n"))
        assert (await client.answer())[0] == 408
        dripping.cancel()


async def test_missing_headers_time_out_on_a_reused_connection(app: App) -> None:
    async with connecting(app, replace(BRISK, header_timeout=SOON)) as connect:
        for sent in HEAD, b"\r\n":
            client = await connect()
            await client.send(HEAD + b"content-length: 0\r\n\r\n")
            assert await client.answer() == (200, b"0")
            await client.send(sent)
            assert await client.refusal() == (408, "slow_headers")


@pytest.mark.parametrize(
    "framing", [b"content-length: 9\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_a_missing_body_times_out_and_its_request_ends(app: App, framing: bytes) -> None:
    async with connecting(app, replace(BRISK, body_timeout=SOON)) as connect:
        client = await connect()
        await client.send(HEAD + framing)
        assert await client.refusal() == (408, "slow_body")
        await until(lambda: app.gone == 1)
        assert app.bodies == []


async def test_a_slow_body_times_out(app: App) -> None:
    async with connecting(app, replace(BRISK, body_timeout=SOON)) as connect:
        client = await connect()
        await client.send(HEAD + b"content-length: 1000000\r\n\r\n")
        dripping = asyncio.create_task(_drip(client, b"x"))
        assert (await client.answer())[0] == 408
        dripping.cancel()
        await until(lambda: app.gone == 1)


async def test_an_idle_connection_is_closed(app: App) -> None:
    async with connecting(app, replace(BRISK, idle_timeout=1)) as connect:
        client = await connect()
        await client.send(HEAD + b"content-length: 0\r\n\r\n")
        await client.answer()
        await client.closed()


async def test_a_client_that_does_not_read_is_disconnected_and_its_work_ends(app: App) -> None:
    refused: list[str] = []
    app.big = True
    async with connecting(app, replace(BRISK, stall_timeout=SOON, on_rejection=refused.append)) as connect:
        client = await connect()
        client.reader._transport.pause_reading()  # like an attacker who holds connections
        await client.send(HEAD + b"content-length: 0\r\n\r\n")
        await until(lambda: app.gone == 1, within=20)
        assert refused == ["reads_nothing"]


async def test_while_slow_clients_wait_others_are_served(app: App) -> None:
    async with connecting(app, BRISK) as connect:
        for sent in (b"", HEAD, HEAD + b"content-length: 9\r\n\r\n") * 20:
            await (await connect()).send(sent)
        client = await connect()
        await client.send(HEAD + b"content-length: 1\r\n\r\na")
        assert await client.answer() == (200, b"1")


async def test_connections_beyond_the_limit_are_rejected_and_accepted_again_later(app: App) -> None:
    async with connecting(app, replace(BRISK, max_connections=2)) as connect:
        clients = []
        for number in range(2 + RESERVED_CONNECTIONS):
            clients.append(await connect())
            # A request in progress: an idle connection would be closed for the next one.
            await clients[-1].send(HEAD + b"content-length: 5\r\n\r\nab")
            await until(partial(_has_begun, app, number + 1))
        last = await connect()
        assert await last.refusal() == (503, "too_many_connections")
        clients[0].writer.close()

        async def is_taken() -> bool:
            client = await connect()
            await client.send(HEAD + b"content-length: 0\r\n\r\n")
            try:
                return bool((await client.answer())[0] == 200)
            except (ConnectionError, asyncio.IncompleteReadError):
                return False

        async with asyncio.timeout(20):
            while not await is_taken():
                pass


def _has_begun(app: App, count: int) -> bool:
    return app.begun == count


TOO_LARGE = {
    "many": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 11 + b"\r\n",
    "one large": HEAD + b"x: " + b"y" * 5000 + b"\r\n\r\n",
    "one that does not end": HEAD + b"x: " + b"y" * 5000,
    "together": HEAD + (b"x: " + b"y" * 1000 + b"\r\n") * 5 + b"\r\n",
    "address": b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
    "address that does not end": b"GET /" + b"a" * 5000,
}


@pytest.mark.parametrize("what", TOO_LARGE)
async def test_headers_that_are_too_large_are_refused_before_the_application_sees_them(app: App, what: str) -> None:
    async with connecting(app, BRISK) as connect:
        client = await connect()
        await client.send(TOO_LARGE[what])
        assert await client.refusal() == (431, "headers_too_large")
        assert app.begun == 0


async def test_a_large_body_does_not_count_as_headers(app: App) -> None:
    async with connecting(app, BRISK) as connect:
        client = await connect()
        await client.send(HEAD + b"x: " + b"y" * 3000 + b"\r\ncontent-length: 50000\r\n\r\n" + b"z" * 50000)
        assert await client.answer() == (200, b"50000")


async def test_invalid_http_gets_an_error_in_the_usual_format(app: App) -> None:
    async with connecting(app, BRISK) as connect:
        client = await connect()
        await client.send(b"\x16\x03\x01 hello\r\n\r\n")
        assert await client.refusal() == (400, "bad_http")


async def test_forwarded_headers_are_ignored(app: App) -> None:
    seen: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append((scope["client"][0], scope["scheme"]))
        await app(scope, receive, send)

    async with connecting(look, BRISK) as connect:  # type: ignore[arg-type]  # an application too
        client = await connect()
        await client.send(HEAD + b"x-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: https\r\ncontent-length: 0\r\n\r\n")
        await client.answer()
    assert seen == [("127.0.0.1", "http")]


async def _drip(client: Client, piece: bytes) -> None:
    while True:
        await client.send(piece)
        await asyncio.sleep(0.02)
