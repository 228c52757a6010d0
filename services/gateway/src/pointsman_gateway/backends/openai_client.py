"""Streams one answer from one OpenAI-compatible engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.backends import failures
from pointsman_gateway.backends.call import Call
from pointsman_gateway.backends.http1 import (
    Connection,
    ConnectionFailed,
    NotConnected,
    Origin,
    Patience,
    Pool,
    TimedOut,
    origin_of,
)
from pointsman_gateway.backends.openai_events import EventReader
from pointsman_gateway.domain import Chunks, Operation

LONGEST_REFUSAL = 64 * 1024
"""Bytes that are read of an answer which is no stream."""

_PATHS: dict[Operation, str] = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}

_encode = msgspec.json.Encoder().encode


class OpenAIClient:
    """One pool of connections for all engines."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._clock = asyncio.get_running_loop().time

    async def stream(self, call: Call) -> AsyncIterator[Chunks]:
        """The chunks of the answer as they come, the last with the usage; the rest as `Client` says."""
        origin, reader = origin_of(call.url), EventReader()
        connection, begun = None, False
        try:
            connection = await self._pool.post(origin, _head(origin, call), _encode(_asked(call)), _patience(call))
            if connection.status != 200:
                raise self.refusal(call, connection, await _rest_of(connection))
            while not reader.done:
                piece = await connection.read()
                chunks = reader.read(piece)
                if chunks:
                    if not begun:
                        begun = True
                        connection.limit(call.timeouts.stream_idle_seconds, call.deadline)
                    yield chunks
                if reader.failure:
                    raise failures.broke_off(call, reader.failure)
                if not piece:
                    raise failures.broke_off(call, "the stream ended without [DONE]")
            self._pool.release(origin, connection)
            connection = None
        except ConnectionFailed as error:
            raise self.told(call, error, begun) from error
        finally:
            if connection is not None:
                connection.close()

    def at_hand(self, call: Call) -> Connection | None:
        """A connection that is kept, if there is one."""
        return self._pool.idle(origin_of(call.url))

    async def connect(self, call: Call) -> Connection:
        """A new one. Raises ConnectionFailed."""
        return await self._pool.connect(origin_of(call.url), _patience(call))

    def post(self, call: Call, connection: Connection) -> None:
        """Over a connection of either sort. Raises ConnectionFailed."""
        connection.post(_head(origin_of(call.url), call), _encode(_asked(call)))

    def release(self, call: Call, connection: Connection) -> None:
        """Takes back a connection whose answer has all been read that is wanted."""
        self._pool.release(origin_of(call.url), connection)

    def told(self, call: Call, error: ConnectionFailed, begun: bool) -> PointsmanError:
        """What has gone wrong, as the caller is told it; `begun`: after the first token."""
        if not isinstance(error, TimedOut):
            return failures.broke_off(call, str(error))
        if self._clock() >= call.deadline:
            return failures.out_of_time()
        if isinstance(error, NotConnected):
            return failures.no_connection_in_time(call)
        return failures.no_more_in_time(call) if begun else failures.no_first_token_in_time(call)

    def refusal(self, call: Call, connection: Connection, body: bytes) -> PointsmanError:
        """Of an answer that is no stream."""
        message, param = body[:500].decode("utf-8", "replace"), None
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # not worded as OpenAI's errors are
            error = json.loads(body)["error"]
            message, param = str(error["message"]), error.get("param")
        return failures.refused(call, connection.status, message, param, connection.retry_after)


def _patience(call: Call) -> Patience:
    return Patience(call.timeouts.connect_seconds, call.timeouts.first_token_seconds, call.deadline)


async def _rest_of(connection: Connection) -> bytes:
    body = b""
    with suppress(ConnectionFailed):  # what has come of it is told
        while len(body) < LONGEST_REFUSAL and (piece := await connection.read()):
            body += piece
    return body


def _head(origin: Origin, call: Call) -> bytes:
    more = call.trace_heads
    if call.api_key:
        more += f"authorization: Bearer {call.api_key}\r\n"
    # identity: a compressed stream would come in lumps.
    return (
        f"POST {origin.path}{_PATHS[call.operation]} HTTP/1.1\r\n{origin.head}"
        f"content-type: application/json\r\naccept-encoding: identity\r\nx-request-id: {request_id.get()}\r\n{more}"
    ).encode("latin-1")


def _asked(call: Call) -> dict[str, Any]:
    sampling = call.sampling
    asked: dict[str, Any] = {
        **sampling.extra,
        "model": call.model,
        **_said(call),
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


def _said(call: Call) -> dict[str, Any]:
    if call.operation == "completion":
        return {"prompt": call.messages[-1].content}
    return {"messages": [{"role": m.role, "content": m.content, **m.extra} for m in call.messages]}
