"""Streams one answer from one OpenAI-compatible engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, PointsmanError, Unavailable
from pointsman_servicekit.logs import request_id

from pointsman_gateway.backends.http1 import Connection, ConnectionFailed, Origin, Pool, TimedOut, origin_of
from pointsman_gateway.backends.openai_events import EventReader
from pointsman_gateway.backends.stage import Call
from pointsman_gateway.domain import Chunks

CONNECT, FIRST, GAP = 2.0, 60.0, 60.0
LONGEST_REFUSAL = 64 * 1024
"""Bytes that are read of an answer which is no stream."""

_encode = msgspec.json.Encoder().encode


class OpenAIClient:
    """One pool of connections for all engines."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._clock = asyncio.get_running_loop().time

    async def stream(self, call: Call) -> AsyncIterator[Chunks]:
        """The chunks of the answer as they come, the last with the usage.

        Raises InvalidArgument where the engine refuses the request itself, Unavailable where it cannot be reached or
        breaks off before the end, DeadlineExceeded. Closing the iterator closes the connection, which stops the
        engine's work.
        """
        origin = origin_of(call.url)
        reader = EventReader()
        connection = None
        try:
            connection = await self._begin(origin, call)
            if connection.status != 200:
                raise _refusal(call, connection, await _rest_of(connection))
            while not reader.done:
                piece = await connection.read()
                connection.limit(GAP, call.deadline)
                chunks = reader.read(piece)
                if chunks:
                    yield chunks
                if reader.failure:
                    raise _broke_off(call, reader.failure)
                if not piece:
                    raise _broke_off(call, "the stream ended without [DONE]")
            self._pool.release(origin, connection)
            connection = None
        except ConnectionFailed as error:
            raise self._told(call, error) from error
        finally:
            if connection is not None:
                connection.close()

    async def _begin(self, origin: Origin, call: Call) -> Connection:
        """A connection on which the answer has begun."""
        head, body = _head(origin, call), _encode(_asked(call))
        connection = self._pool.idle(origin)
        if connection is not None:
            try:
                return await self._post(connection, call, head, body)
            except TimedOut:
                raise
            except ConnectionFailed:
                pass  # it was closed while it rested, as our request went out: nothing has been done yet
        connect = min(CONNECT, call.deadline - self._clock())
        return await self._post(await self._pool.connect(origin, max(connect, 0.0)), call, head, body)

    async def _post(self, connection: Connection, call: Call, head: bytes, body: bytes) -> Connection:
        try:
            connection.post(head, body)
            connection.limit(FIRST, call.deadline)
            await connection.begun()
        except BaseException:
            connection.close()
            raise
        return connection

    def _told(self, call: Call, error: ConnectionFailed) -> PointsmanError:
        if isinstance(error, TimedOut) and self._clock() >= call.deadline:
            return DeadlineExceeded("the request's time ran out", code="deadline_exceeded")
        return _broke_off(call, str(error))


async def _rest_of(connection: Connection) -> bytes:
    body = b""
    with suppress(ConnectionFailed):  # what has come of it is told
        while len(body) < LONGEST_REFUSAL and (piece := await connection.read()):
            body += piece
    return body


def _head(origin: Origin, call: Call) -> bytes:
    key = f"authorization: Bearer {call.api_key}\r\n" if call.api_key else ""
    # identity: a compressed stream would come in lumps.
    return (
        f"POST {origin.path}/v1/chat/completions HTTP/1.1\r\n{origin.head}"
        f"content-type: application/json\r\naccept-encoding: identity\r\nx-request-id: {request_id.get()}\r\n{key}"
    ).encode("latin-1")


def _asked(call: Call) -> dict[str, Any]:
    sampling = call.sampling
    asked: dict[str, Any] = {
        **sampling.extra,
        "model": call.model,
        "messages": [{"role": m.role, "content": m.content, **m.extra} for m in call.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.max_tokens is not None:
        asked["max_tokens"] = sampling.max_tokens
    if sampling.temperature is not None:
        asked["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        asked["top_p"] = sampling.top_p
    if sampling.seed is not None:
        asked["seed"] = sampling.seed
    if sampling.stop:
        asked["stop"] = sampling.stop
    return asked


def _refusal(call: Call, connection: Connection, body: bytes) -> PointsmanError:
    message, param = body[:500].decode("utf-8", "replace"), None
    with suppress(ValueError, LookupError, TypeError, AttributeError):  # not worded as OpenAI's errors are
        error = json.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
    status = connection.status
    if status in (400, 413, 422):
        code = "context_length_exceeded" if param in ("input_tokens", "prompt") else "engine_refused"
        return InvalidArgument(message, code=code, param="messages" if code == "context_length_exceeded" else param)
    return Unavailable(f"engine '{call.engine}' answered {status}: {message}", code="engine_error", retry_after=1.0)


def _broke_off(call: Call, why: str) -> Unavailable:
    return Unavailable(f"engine '{call.engine}' failed: {why}", code="engine_unavailable", retry_after=1.0)
