"""A minimal HTTP client: one request at a time on each persistent connection."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

HOST = "127.0.0.1"


class Broken(Exception):
    """The connection ended before the answer was complete."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests for chat completions are sent: the port, the path and the headers, with the model's name."""

    port: int
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"

    def request(self, body: bytes) -> bytes:
        """Returns the HTTP request as bytes."""
        lines = [f"POST {self.path} HTTP/1.1", f"host: {HOST}:{self.port}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join([*lines, f"content-length: {len(body)}"]) + "\r\n\r\n").encode() + body


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection. `ask` raises Broken if the server disconnects before the answer is complete."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None
        self._on_data: Callable[[bytes], None] = lambda data: None
        self.open = False

    @classmethod
    async def to(cls, port: int) -> "Connection":
        """Opens a connection to a port. Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return connection

    async def ask(self, request: bytes, on_data: Callable[[bytes], None] | None = None) -> Answer:
        """Calls `on_data` with each part of the body; without it, the answer contains the body."""
        return await self.begin(request, on_data)

    def begin(self, request: bytes, on_data: Callable[[bytes], None] | None = None) -> "asyncio.Future[Answer]":
        self._answer = asyncio.get_running_loop().create_future()
        self._body = bytearray()
        self._on_data = on_data or self._body.extend
        if self.open:
            self._parser = httptools.HttpResponseParser(self)
            self._transport.write(request)
        else:
            self._answer.set_exception(Broken("closed"))
        return self._answer

    def close(self) -> None:
        self._transport.abort()

    # -- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        self.open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Broken(str(error)))
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._fail(Broken(str(error or "closed")))

    # -- called by the parser

    def on_body(self, data: bytes) -> None:
        self._on_data(data)

    def on_message_complete(self) -> None:
        status, keep_alive = self._parser.get_status_code(), self._parser.should_keep_alive()
        if status == 100:
            return
        if not keep_alive:
            self.open = False
            self._transport.close()
        if self._answer and not self._answer.done():
            self._answer.set_result(Answer(status, bytes(self._body)))

    def _fail(self, error: Broken) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)


async def get(port: int, path: str, timeout_s: float = 5.0) -> Answer:
    """Sends a GET request, and returns the answer. Raises Broken, OSError, TimeoutError."""
    return await _once(port, f"GET {path} HTTP/1.1\r\nhost: {HOST}:{port}\r\n\r\n".encode(), timeout_s)


async def post(target: Target, body: Mapping[str, Any], timeout_s: float = 20.0) -> Answer:
    """Sends a POST request, and returns the answer. Raises Broken, OSError, TimeoutError."""
    return await _once(target.port, target.request(json.dumps(body).encode()), timeout_s)


async def answers_at(port: int, path: str = "/health", status: int = 200) -> bool:
    """Returns whether the server on this port answers the path with this status."""
    with suppress(Broken, OSError, TimeoutError):
        return (await get(port, path, timeout_s=2.0)).status == status
    return False


async def _once(port: int, request: bytes, timeout_s: float) -> Answer:
    async with asyncio.timeout(timeout_s):
        connection = await Connection.to(port)
        try:
            return await connection.ask(request)
        finally:
            connection.close()
