"""Engine clients with bugs: connections, or LiteLLM's SDK, that raise an unforeseen exception at a given point."""

import asyncio
import types
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from pointsman_gateway.config.models_file import ResilienceConfig, RetryConfig
from pointsman_gateway.domain import Chunk, Chunks, Event, Message, Request
from pointsman_gateway.engines.connection_pool import Origin, Pool
from pointsman_gateway.engines.dialects.anthropic.events import MessagesReader
from pointsman_gateway.engines.engine_client import EngineClient, EngineRequest
from pointsman_gateway.engines.http1 import ConnectionFailed, EngineConnection
from pointsman_gateway.engines.http_engine_client import HttpEngineClient, HttpTransfer
from pointsman_gateway.engines.stage import EngineBackend
from pointsman_gateway.ports import ChunkSink

from tests.gateway.doubles.engine import chunk
from tests.gateway.doubles.gateway import Gateway


def use_client(gateway: Gateway, client: EngineClient) -> None:
    """Makes the gateway call its engines by this client, without retries."""
    reloader = gateway.components.reloader
    once = ResilienceConfig(retries=RetryConfig(max_retries=0))
    backend = EngineBackend(reloader.current.engines, client, asyncio.get_running_loop().time, once)
    reloader.current = replace(reloader.current, stages=replace(reloader.current.stages, backend=backend))


async def events_of(gateway: Gateway, model: str, seconds: float = 30) -> list[Event]:
    """Returns the events of a streamed answer. Raises the error with which the request fails."""
    deadline = asyncio.get_running_loop().time() + seconds
    request = Request(model, (Message("user", "Hello, how are you today?"),), deadline=deadline)
    async with asyncio.timeout(5):
        return [event async for event in gateway.components.pipeline.answer(request)]


class Bug(Exception):
    """An exception that the code under test does not expect."""


class BrokenConnection(EngineConnection):
    """A connection that raises `Bug` in one of its methods, once.

    `where` is the method's name; `read_some` and `post` are followed by the number of the call, such as "post 2". Calls
    of `read_some` count only if they return data.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._posts = self._reads = 0

    def post(self, head: bytes, body: bytes) -> None:
        self._posts += 1
        self._break(f"post {self._posts}")
        super().post(head, body)

    def read_some(self) -> bytes:
        piece = super().read_some()
        self._reads += bool(piece)
        if piece:
            self._break(f"read_some {self._reads}")
        return piece

    @property
    def failure(self) -> ConnectionFailed | None:
        if super().failure is not None:
            self._break("failure")
        return super().failure

    def on_header(self, name: bytes, value: bytes) -> None:
        self._break("on_header")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._break("on_headers_complete")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._break("on_body")
        super().on_body(body)

    def _stop_timer(self) -> None:
        if self._transport is None:
            self._break("connection_lost")
        super()._stop_timer()

    def _break(self, where: str) -> None:
        if where == self._where:
            self._where = ""  # what is closed after a bug is closed without another one
            raise Bug


class BrokenPool(Pool):
    """Opens connections that raise `Bug` at `where`; those before the connection with the number `first` are sound."""

    def __init__(self, where: str, first: int = 1) -> None:
        super().__init__()
        self._where = where
        self._first = first
        self._opened = 0

    async def connect(self, origin: Origin, seconds: float, deadline: float) -> EngineConnection:
        self._opened += 1
        where = self._where if self._opened >= self._first else ""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: BrokenConnection(where), origin.host, origin.port)
        return connection


class BrokenReader(MessagesReader):
    def read(self, piece: bytes) -> Chunks:
        raise Bug


class BrokenReading(HttpEngineClient):
    """A client whose reader of Anthropic's format raises `Bug` on any data."""

    def send(self, request: EngineRequest, sink: ChunkSink) -> HttpTransfer:
        transfer = super().send(request, sink)
        transfer._reader = BrokenReader()
        return transfer


class SilentClient:
    """Sends `pieces` and then nothing, even after the deadline; implements `EngineClient` and `Transfer`."""

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces
        self.running = 0
        self.is_sent = True

    def send(self, request: EngineRequest, sink: ChunkSink) -> "SilentClient":
        self.running += 1
        for piece in self._pieces:
            asyncio.get_running_loop().call_soon(sink.chunks, (Chunk(content=piece),), False)
        return self

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.running -= 1


class BrokenStream:
    """A stream of LiteLLM's SDK that fails after `events` events."""

    def __init__(self, events: int, error: BaseException) -> None:
        self.is_closed = False
        self._left = events
        self._error = error

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._left:
            raise self._error
        self._left -= 1
        return types.SimpleNamespace(model_dump=lambda exclude_none: chunk("Hel"))

    async def aclose(self) -> None:
        self.is_closed = True


class BrokenSdk(types.ModuleType):
    """LiteLLM's module: `acompletion` returns `stream`, or raises it if it is an exception."""

    def __init__(self) -> None:
        super().__init__("litellm")
        self.stream: Any = None

    async def acompletion(self, **arguments: Any) -> Any:
        if isinstance(self.stream, BaseException):
            raise self.stream
        return self.stream
