"""The HTTP client for engines: sends requests, and pushes the chunks of streamed answers to sinks as they arrive.

The engine's dialect (OpenAI's or Anthropic's API) writes the request's body and parses the answer.
"""

import asyncio
from contextvars import copy_context
from functools import partial
from math import inf

import msgspec
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.engines.connection_pool import Pool, close_unused, origin_of
from pointsman_gateway.engines.dialects.openai.schema import parse_error
from pointsman_gateway.engines.dialects.registry import ENGINE_DIALECTS
from pointsman_gateway.engines.engine_client import (
    EngineRequest,
    broke_off,
    no_connection_in_time,
    no_first_token_in_time,
    no_more_in_time,
    out_of_time,
    refused,
    too_long,
    unreadable,
)
from pointsman_gateway.engines.engine_dialect import AnswerReader
from pointsman_gateway.engines.http1 import ConnectionFailed, EngineConnection, NotConnected, TimedOut
from pointsman_gateway.ports import ChunkSink

MAX_REFUSAL_BYTES = 64 * 1024
"""Number of bytes of an error response after which the client reports the error, without waiting for the response's
end."""

_encode = msgspec.json.Encoder().encode

Message = tuple[bytes, bytes]
"""The head and the body of a request to an engine, as bytes."""


class HttpEngineClient:
    """Sends requests to all engines over HTTP/1.1, from one pool of connections; implements `EngineClient`."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.clock = asyncio.get_running_loop().time

    def send(self, request: EngineRequest, sink: ChunkSink) -> "HttpTransfer":
        return HttpTransfer(self, request, sink)

    async def connect(self, request: EngineRequest) -> EngineConnection:
        """Opens a new connection to the engine of `request`.

        Raises NotConnected after the engine's connect timeout, TimedOut at the request's deadline, and
        ConnectionFailed for other failures.
        """
        return await self.pool.connect(origin_of(request.url), request.timeouts.connect_seconds, request.deadline)


class HttpTransfer:
    """One request to an engine over HTTP, whose answer is parsed and pushed to a sink; implements `Transfer`.

    Works in the connection's callbacks, without an asyncio task.
    """

    __slots__ = (
        "_client",
        "_connecting",
        "_connection",
        "_context",
        "_dialect",
        "_has_begun",
        "_is_new",
        "_is_paused",
        "_next_step",
        "_origin",
        "_reader",
        "_received",
        "_request",
        "_sink",
        "is_sent",
    )

    def __init__(self, client: HttpEngineClient, request: EngineRequest, sink: ChunkSink) -> None:
        self._client = client
        self._request = request
        self._sink: ChunkSink | None = sink
        self._origin = origin_of(request.url)
        extra = request.sampling.extra
        self._dialect = dialect = ENGINE_DIALECTS[request.api.dialect]
        self._reader = dialect.reader(request.as_a_whole, _choice_count(request) if extra else 1)
        self._has_begun = self._is_new = self._is_paused = False
        self._received = 0
        """Number of bytes of the answer that have been read."""
        self._context = copy_context()
        """A copy of the request's context for this transfer's callbacks. The original cannot be used: a callback may
        resume the request's run, which enters the original context itself."""
        self._next_step: asyncio.Handle | None = None
        """The scheduled call that reads more of the data that has already arrived; None if there is no such call."""
        self._connecting: asyncio.Task[EngineConnection] | None = None
        self._connection: EngineConnection | None = None
        self.is_sent = False
        message = self._message()  # a request that has no form fails before it takes or opens a connection
        connection = client.pool.idle(self._origin)
        if connection is None:
            self._connect(message)
        else:
            try:
                self._post(connection, message)
            except Exception as bug:
                self.close()
                raise unreadable(request, bug) from bug

    # -- called by the engine call

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._handle_event()

    def close(self) -> None:
        self._sink = None
        self._release(complete=self._reader.done)

    # -- connection

    def _connect(self, message: Message) -> None:
        context = self._context
        self._is_new = True
        self._connecting = asyncio.create_task(self._client.connect(self._request), context=context)
        self._connecting.add_done_callback(partial(self._connected, message), context=context)

    def _connected(self, message: Message, connecting: "asyncio.Task[EngineConnection]") -> None:
        if self._connecting is not connecting:
            close_unused(connecting)
            return
        self._connecting = None
        if connecting.cancelled():
            return
        try:
            self._post(connecting.result(), message)
        except ConnectionFailed as error:
            self._fail(self._failure_of(error))
        except Exception as bug:
            self._fail(unreadable(self._request, bug))
        finally:
            del connecting  # breaks the reference cycle: it holds the error, whose traceback holds this frame

    def _message(self) -> Message:
        """Encodes the request; raises InvalidArgument if the engine's API cannot express it."""
        request, dialect = self._request, self._dialect
        path, endpoint = self._origin.path, request.api.endpoints[request.operation]
        head = (
            f"POST {path}{endpoint.path} HTTP/1.1\r\n{self._origin.headers}x-request-id: {request_id.get()}\r\n"
            f"{request.trace_headers}{request.api.auth_header}{dialect.header_lines(request)}"
        )
        return head.encode("latin-1"), _encode(dialect.to_body(request, endpoint))

    def _post(self, connection: EngineConnection, message: Message) -> None:
        self._connection, request = connection, self._request
        self.is_sent = True
        connection.post(*message)
        connection.set_timeouts(inf, min(self._client.clock() + request.timeouts.first_token_seconds, request.deadline))
        # Connections are opened in no request's context.
        connection.on_event = partial(self._context.run, self._handle_event)

    def _release(self, *, complete: bool = False) -> None:
        """Returns the connection to the pool if the answer is complete, else closes it, which stops the engine."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if complete:
            self._client.pool.release(self._origin, connection)
        else:
            connection.close()

    # -- response

    def _handle_event(self) -> None:
        """Reads what has arrived; an exception while reading ends the answer as a failure of the engine."""
        try:
            self._on_event()
        except Exception as bug:
            self._fail(unreadable(self._request, bug))

    def _on_event(self) -> None:
        connection = self._connection
        if self._is_paused or connection is None or self._next_step is not None:
            return
        if connection.status == 200:
            self._read(connection)
        elif connection.status:
            # Without a length, the body of an error ends with its connection.
            if connection.is_complete or connection.has_failed or connection.unread > MAX_REFUSAL_BYTES:
                self._fail(_refusal(self._request, connection))
        elif connection.failure is not None:
            self._on_lost(connection, connection.failure)

    def _read(self, connection: EngineConnection) -> None:
        reader = self._reader
        if not reader.done:
            piece = connection.read_some()
            self._received += len(piece)
            if self._received > self._request.max_bytes:
                self._fail(too_long(self._request))
                return
            chunks = reader.read(piece)
            if chunks and self._sink is not None:
                if not self._has_begun:
                    self._has_begun = True
                    if not reader.done:
                        connection.set_timeouts(self._request.timeouts.stream_idle_seconds, self._request.deadline)
                self._sink.chunks(chunks, reader.done)
            if self._is_paused or self._sink is None:
                return  # `resume` comes back here
        if reader.failure:
            self._fail(self._reported_error(reader))
        elif reader.done:
            self._end(None)
        elif connection.unread:  # a long step would delay all other requests
            self._next_step = asyncio.get_running_loop().call_soon(self._read_on, context=self._context)
        elif connection.failure is not None:
            self._on_lost(connection, connection.failure)
        elif connection.is_complete:
            why = "the stream ended without [DONE]" if self._has_begun else "its answer has no event of a stream"
            self._fail(broke_off(self._request, why))

    def _read_on(self) -> None:
        self._next_step = None
        self._handle_event()

    def _on_lost(self, connection: EngineConnection, failure: ConnectionFailed) -> None:
        if self._is_new or connection.status or isinstance(failure, TimedOut):
            self._fail(self._failure_of(failure))
        else:  # the engine closed the idle connection before it got the request: retry on a new one
            self._release()
            self._connect(self._message())

    def _reported_error(self, reader: AnswerReader) -> PointsmanError:
        """Returns the error that a stream reports. Before the first chunk, a code from 400 to 499 counts like a status:
        vLLM checks some parameters, such as schemas, only after it has begun the stream.
        """
        status = reader.error.get("code")
        if not self._has_begun and isinstance(status, int) and 400 <= status < 500:
            param = reader.error.get("param")
            return refused(self._request, status, reader.failure, param=param if isinstance(param, str) else None)
        return broke_off(self._request, reader.failure)

    def _failure_of(self, error: ConnectionFailed) -> PointsmanError:
        request = self._request
        if not isinstance(error, TimedOut):
            return broke_off(request, str(error))
        if self._client.clock() >= request.deadline:
            return out_of_time()
        if isinstance(error, NotConnected):
            return no_connection_in_time(request)
        if self._has_begun:
            return no_more_in_time(request)
        return no_first_token_in_time(request)

    def _fail(self, error: PointsmanError) -> None:
        self._release()
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.ended(error)


def _refusal(request: EngineRequest, connection: EngineConnection) -> PointsmanError:
    """Returns the error for a response with another status than 200, by that status and the response's body."""
    error = parse_error(connection.read())
    wait = connection.retry_after or error.retry_after
    return refused(
        request,
        connection.status,
        error.message,
        param=error.param,
        retry_after=wait,
        code=error.code,
        location=connection.location,
    )


def _choice_count(request: EngineRequest) -> int:
    """Returns the number of choices of the answer: `n`, times the number of prompts of a completion."""
    count: int = request.sampling.extra.get("n") or 1
    return count * len(request.messages) if request.operation == "completion" else count
