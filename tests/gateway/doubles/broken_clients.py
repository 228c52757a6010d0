"""Engine clients with bugs: a connection, or LiteLLM's SDK, that raises an unforeseen exception in a given place."""

import asyncio
import types
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from pointsman_gateway.config.models_file import ResilienceConfig, RetryConfig
from pointsman_gateway.domain import Chunk, Event, Message, Request
from pointsman_gateway.engines.engine_client import EngineClient, EngineRequest
from pointsman_gateway.engines.http1 import ConnectionFailed, EngineConnection, Origin, Pool
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
    """Returns the events of an answer; raises the request's error."""
    deadline = asyncio.get_running_loop().time() + seconds
    request = Request(model, (Message("user", "Hello, how are you today?"),), deadline=deadline)
    async with asyncio.timeout(5):
        return [event async for event in gateway.components.pipeline.answer(request)]


class Bug(Exception):
    """An exception that nothing foresees."""


class BrokenConnection(EngineConnection):
    """Raises `Bug` in `post`, in the first or second `read` that has data, or once it is asked how it was lost."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._reads = 0

    def post(self, head: bytes, body: bytes) -> None:
        if self._where == "post":
            raise Bug
        super().post(head, body)

    def read(self) -> bytes:
        piece = super().read()
        self._reads += bool(piece)
        if piece and self._where == f"read {self._reads}":
            raise Bug
        return piece

    @property
    def failure(self) -> ConnectionFailed | None:
        if super().failure is not None and self._where == "failure":
            raise Bug
        return super().failure


class BrokenPool(Pool):
    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    async def connect(self, origin: Origin, seconds: float, deadline: float) -> EngineConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: BrokenConnection(self._where), origin.host, origin.port)
        return connection


class SilentClient:
    """Sends nothing after `pieces`, and watches no deadline; implements `EngineClient` and `Transfer`."""

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces
        self.running = 0

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
