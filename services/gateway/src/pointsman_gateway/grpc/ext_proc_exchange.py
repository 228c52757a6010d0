"""Handles one HTTP request that Envoy passes to the gateway by external processing, from its headers to the end of its
response.

The gateway's ASGI application handles the request as if it came over HTTP. When the application sends its first request
to an engine, Envoy forwards this request to the engine, and later replaces the engine's response by the application's
answer. If the application sends no request to an engine, its answer goes to the client at once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from pointsman.envoy import external_processor_pb2 as pb

from pointsman_gateway.engines.connection_pool import Origin
from pointsman_gateway.engines.forwarding import ForwardedConnection, current_exchange
from pointsman_gateway.grpc.ext_proc_messages import (
    header_mutation,
    header_pairs,
    request_messages,
    response_body,
    response_headers,
    response_trailers,
    whole_response,
)

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
"""An ASGI application. Its first argument, the scope, is a dict like the messages that the other two receive
and send."""

END_SECONDS = 5.0
"""Seconds for each wait at the end of a request. Once the answer is known, the gateway waits for the end of the
client's body or of the engine's response; after Envoy has dropped the request, it waits for the application to end."""
MAX_QUEUED_BYTES = 256 * 1024
"""Maximum number of bytes of the request's body that wait for the application; the gateway reads no more from Envoy."""
MAX_QUEUED_MESSAGES = 32
"""Maximum number of messages that wait for Envoy to read them; if there are more, the application has to wait."""
REMOVED_HEADERS = (
    "authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "content-length", "transfer-encoding",
)  # fmt: skip
"""Headers of the client that Envoy must not forward to an engine: credentials, and those that describe the client's
body."""
MODEL_HEADER = b"x-gateway-model-name"
"""Header with the engine's name of the model, by which Envoy can choose a route. The Gateway API Inference Extension
defines its name."""
ENDPOINT_HEADER = b"x-gateway-destination-endpoint"
"""Header with the HOST:PORT of the engine that the gateway has chosen; endpoint pickers set the same header."""


class Unanswerable(Exception):
    """The answer cannot be sent through Envoy, which then reports a failure to the client."""


class _Sent(msgspec.Struct):
    model: str = ""


_decode_sent = msgspec.json.Decoder(_Sent).decode


class Exchange:
    """Passes the messages of one HTTP request between Envoy and the ASGI application; implements
    `ForwardingExchange`.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._outgoing = asyncio.Queue[pb.ProcessingResponse | None]()
        self._request = asyncio.Queue[Message]()
        self._connection: ForwardedConnection | None = None
        self._origin: Origin | None = None
        self._queued_bytes = 0
        self._is_closed = self._has_upstream_headers = self._has_trailers = False
        self._request_ended, self._upstream_ended = asyncio.Event(), asyncio.Event()
        self._has_read, self._has_sent = asyncio.Event(), asyncio.Event()
        self._start: Message | None = None
        self._collected: list[bytes] = []
        self._is_relaying = False
        """Whether the answer's headers were sent to Envoy, as a replacement of the headers of the engine's response."""

    async def responses(self, requests: AsyncIterator[pb.ProcessingRequest]) -> AsyncIterator[pb.ProcessingResponse]:
        """Runs the request that the messages `requests` from Envoy contain, and yields the messages for Envoy.

        Raises Unanswerable if the answer cannot be completed.
        """
        tasks = [asyncio.create_task(self._read(requests), name="ext-proc")]
        first = await self._request.get()
        if first["type"] == "http.scope":
            tasks.append(asyncio.create_task(self._run(first["scope"]), name="ext-proc-request"))
        try:
            while (response := await self._outgoing.get()) is not None:
                yield response
                self._has_sent.set()
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
        finally:
            self._is_closed = True
            self._has_sent.set()
            self._request.put_nowait({"type": "http.disconnect"})
            await asyncio.wait(tasks[1:] or tasks, timeout=END_SECONDS)  # the request writes its receipt
            for task in tasks:
                task.cancel()
            if self._connection is not None:
                self._connection.lose()

    # -- from Envoy

    async def _read(self, requests: AsyncIterator[pb.ProcessingRequest]) -> None:
        try:
            async for request in requests:
                kind = request.WhichOneof("request")
                if kind == "request_headers":
                    self._begin(request)
                elif kind == "request_body":
                    self._put_body(request.request_body.body, request.request_body.end_of_stream)
                    while self._queued_bytes > MAX_QUEUED_BYTES and self._start is None:
                        self._has_read.clear()
                        await self._has_read.wait()
                elif kind == "request_trailers":
                    self._put_body(b"", True)
                elif self._connection is not None:
                    await self._read_response(kind, request, self._connection)
        finally:
            self._request.put_nowait({"type": "http.disconnect"})
            self._outgoing.put_nowait(None)

    async def _read_response(
        self, kind: str | None, request: pb.ProcessingRequest, connection: ForwardedConnection
    ) -> None:
        ends = False
        if kind == "response_headers":
            ends = request.response_headers.end_of_stream
            self._has_upstream_headers = not ends  # without a body there is none to replace
            connection.begin(header_pairs(request.response_headers.headers))
        elif kind == "response_body":
            ends = request.response_body.end_of_stream
            if ends:
                self._upstream_ended.set()
            await connection.feed(request.response_body.body)
        elif kind == "response_trailers":
            ends = self._has_trailers = True
        if ends:
            self._upstream_ended.set()
            connection.end()

    def _begin(self, request: pb.ProcessingRequest) -> None:
        headers = header_pairs(request.request_headers.headers)
        special = {name: value for name, value in headers if name.startswith(b":")}
        path, _, query = special.get(b":path", b"/").partition(b"?")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": special.get(b":method", b"POST").decode("latin-1"),
            "scheme": special.get(b":scheme", b"http").decode("latin-1"),
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [
                (b"host", special.get(b":authority", b"")),
                *[(name, value) for name, value in headers if not name.startswith(b":")],
            ],
            "client": None,
            "server": None,
        }
        self._request.put_nowait({"type": "http.scope", "scope": scope})
        if request.request_headers.end_of_stream:
            self._put_body(b"", True)

    def _put_body(self, body: bytes, end: bool) -> None:
        if end:
            self._request_ended.set()
        if self._start is not None:
            return  # the request is answered already
        self._queued_bytes += len(body)
        self._request.put_nowait({"type": "http.request", "body": body, "more_body": not end})

    # -- the request to the engine

    def take(self, origin: Origin) -> ForwardedConnection | None:
        if self._connection is not None or self._is_closed or not self._request_ended.is_set():
            return None
        self._origin = origin
        self._connection = ForwardedConnection(self._forward)
        return self._connection

    def _forward(self, head: bytes, body: bytes) -> None:
        assert self._origin is not None  # `take` comes first
        first, *lines = head.split(b"\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines if line)]
        headers = [one for one in headers if one[0] != b"host"]
        names = {name.decode("latin-1") for name, _ in headers}
        headers += [
            (b":path", first.split(b" ")[1]),
            (MODEL_HEADER, _decode_sent(body).model.encode()),
            (ENDPOINT_HEADER, f"{self._origin.host}:{self._origin.port}".encode()),
        ]
        mutation = header_mutation(headers, [name for name in REMOVED_HEADERS if name not in names])
        for message in request_messages(mutation, body):
            self._outgoing.put_nowait(message)

    # -- the application

    async def _run(self, scope: Message) -> None:
        current_exchange.set(self)
        try:
            await self._app(scope, self._receive, self._send)
        finally:
            self._is_closed = True
            self._outgoing.put_nowait(None)

    async def _receive(self) -> Message:
        message = await self._request.get()
        self._queued_bytes -= len(message.get("body", b""))
        self._has_read.set()
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            self._has_read.set()
            return
        assert self._start is not None
        body, ends = message.get("body", b""), not message.get("more_body", False)
        if not self._is_relaying and not self._has_upstream_headers:
            self._collected.append(body)
            if ends:
                # A client that still sends would miss the response, because Envoy closes its connection.
                await _wait(self._request_ended)
                whole = whole_response(self._start["status"], self._start["headers"], b"".join(self._collected))
                self._outgoing.put_nowait(whole)
            return
        if not self._is_relaying:
            self._is_relaying = True
            self._outgoing.put_nowait(response_headers(self._start["status"], self._start["headers"]))
            body = b"".join([*self._collected, body])
        if ends:
            await self._end(body)
        elif body:
            self._put(response_body(body, False))
            while self._outgoing.qsize() > MAX_QUEUED_MESSAGES and not self._is_closed:
                self._has_sent.clear()
                await self._has_sent.wait()

    async def _end(self, body: bytes) -> None:
        if not await _wait(self._upstream_ended):
            self._put(response_body(body, False))
            raise Unanswerable("the engine's response has not ended")
        self._put(response_body(body, not self._has_trailers))
        if self._has_trailers:
            self._outgoing.put_nowait(response_trailers())

    def _put(self, messages: Any) -> None:
        for message in messages:
            self._outgoing.put_nowait(message)


async def _wait(event: asyncio.Event) -> bool:
    """Waits for the event up to `END_SECONDS`; returns whether it has happened."""
    if not event.is_set():
        await asyncio.wait([waiting := asyncio.ensure_future(event.wait())], timeout=END_SECONDS)
        waiting.cancel()
    return event.is_set()
