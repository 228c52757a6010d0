"""Sinks: each encodes one answer as an HTTP response. `ConnectionSink` writes the response directly to a connection."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pointsman_gateway.codec.headers import Headers, cost_headers, decision_headers
from pointsman_gateway.domain import Chunk, Chunks, Finished, Started
from pointsman_gateway.http.encoding import JSON_TYPE, AnswerEncoder, encode_headers, error_response
from pointsman_gateway.pipeline.run import RequestRun
from pointsman_gateway.pipeline.sinks import UNREAD_SECONDS, AnswerNotRead

EVENT_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
CHUNKED = (b"transfer-encoding", b"chunked")
MAX_JOINED_BYTES = 64 * 1024
"""Maximum length of a body that is copied behind its head, so that both are written together."""
LAST_CHUNK = b"0\r\n\r\n"


class HttpSink:
    """Encodes one answer as an HTTP response, which a subclass sends; implements `AnswerSink` except for `closed`.

    An error after a stream has begun becomes the stream's last event. Any other error becomes a response with its
    own status.
    """

    def __init__(
        self, encoder: AnswerEncoder, streams: bool, extra_headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._encoder = encoder
        self._streams = streams
        self._extra_headers = extra_headers
        self._started: Started | None = None
        self._collected: list[Chunk] = []
        """The chunks of an answer that is not streamed."""

    def started(self, started: Started) -> None:
        self._started = started
        if self._streams:
            self.send_head([*EVENT_STREAM_HEADERS, *self._extra_headers, *_answer_headers(started)])
            self.send_part(self._encoder.encode_start(started), may_wait=True)

    def chunks(self, chunks: Chunks, last: bool) -> None:
        if self._streams:
            self.send_part(self._encoder.encode_chunks(chunks), may_wait=last)
        else:
            self._collected.extend(chunks)

    def finished(self, finished: Finished) -> None:
        if self._streams:
            self.send_end(self._encoder.encode_end(finished))
            return
        started = self._started
        assert started is not None  # `started` is always called first
        headers = [JSON_TYPE, *self._extra_headers, *_answer_headers(started), *cost_headers(finished.receipt)]
        self.send_whole(200, headers, self._encoder.encode_whole(started, self._collected, finished))

    def failed(self, error: PointsmanError) -> None:
        if self._streams and self._started is not None:
            self.send_end(self._encoder.encode_error(error))
        else:
            self.send_whole(*error_response(error, self._extra_headers, self._encoder.error_format))

    # -- sending, in subclasses

    def send_head(self, headers: Headers) -> None:
        """Sends status 200 and the headers of a stream."""
        raise NotImplementedError

    def send_part(self, part: bytes, *, may_wait: bool) -> None:
        """Sends a part of a streamed response, which may be empty.

        `may_wait` says that another part or the end follows at once, so that both may be sent together.
        """
        raise NotImplementedError

    def send_end(self, part: bytes) -> None:
        """Sends the last part of a streamed response."""
        raise NotImplementedError

    def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a complete HTTP response, which is not streamed."""
        raise NotImplementedError


class ClientConnection(Protocol):
    """Interface of the connection that a `ConnectionSink` writes to; `FastConnection` implements it."""

    transport: asyncio.Transport

    @property
    def default_headers(self) -> Headers:
        """Returns the headers that every response has."""
        ...

    def end_request(self, *, close: bool = False) -> None:
        """Ends the current request; closes the connection if `close` is set, else reads the next request."""
        ...


class ConnectionSink(HttpSink):
    """Writes one answer directly to a connection, without ASGI. Implements `AnswerSink`."""

    def __init__(
        self, connection: ClientConnection, deadline: float, encoder: AnswerEncoder, streams: bool, request_id: str
    ) -> None:
        super().__init__(encoder, streams, encoder.error_format.id_headers(request_id.encode()))
        self.run: RequestRun | None = None
        self._connection: ClientConnection | None = connection
        self._deadline = deadline
        self._unwritten = b""
        """Bytes that are written together with the next part, which follows at once: two writes take twice the time."""
        self._has_answered = False
        """Whether the end of the response has been written."""
        self._must_close = False
        self._unread_timer: asyncio.TimerHandle | None = None

    # -- called by the connection

    def pause(self) -> None:
        """Makes the request wait, because the client has stopped reading its answer.

        Unless `resume` is called, the request is cancelled with AnswerNotRead `UNREAD_SECONDS` after its deadline.
        """
        run = self.run
        if run is not None:
            run.pause()
            self._unread_timer = asyncio.get_running_loop().call_at(
                self._deadline + UNREAD_SECONDS, run.cancel, AnswerNotRead()
            )

    def resume(self) -> None:
        self._stop_timer()
        if self.run is not None:
            self.run.resume()

    def cancel(self) -> None:
        """Cancels the request whose answer this sink writes, because the client has disconnected."""
        if self.run is not None:
            self.run.cancel()

    # -- called by the run

    def failed(self, error: PointsmanError) -> None:
        # A response whose end has been written cannot report an error any more.
        if isinstance(error, AnswerNotRead) or self._has_answered:
            self._must_close = True
        else:
            super().failed(error)

    def closed(self) -> None:
        self._stop_timer()
        connection, self._connection, self.run = self._connection, None, None
        if connection is not None:
            connection.end_request(close=self._must_close)

    # -- sending

    def send_head(self, headers: Headers) -> None:
        assert self._connection is not None
        self._unwritten = _encode_head(200, self._connection.default_headers, [*headers, CHUNKED])

    def send_part(self, part: bytes, *, may_wait: bool) -> None:
        data = self._unwritten + _encode_chunk(part)
        if may_wait:
            self._unwritten = data
        elif data:
            self._unwritten = b""
            self._write(data)

    def send_end(self, part: bytes) -> None:
        self._has_answered = True
        self._write(self._unwritten + _encode_chunk(part) + LAST_CHUNK)

    def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        assert self._connection is not None
        headers.append((b"content-length", b"%d" % len(body)))
        self._has_answered = True
        head = _encode_head(status, self._connection.default_headers, headers)
        if len(body) <= MAX_JOINED_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def _write(self, data: bytes) -> None:
        assert self._connection is not None
        transport = self._connection.transport
        # uvloop's transports raise RuntimeError once the client is gone, which the run learns of a moment later.
        if not transport.is_closing():
            transport.write(data)

    def _stop_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


def _answer_headers(started: Started) -> Headers:
    return [*decision_headers(started), *encode_headers(started.limit_headers)]


def _encode_chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part) if part else b""


def _encode_head(status: int, default: Headers, headers: Headers) -> bytes:
    return b"%b%b%b\r\n" % (STATUS_LINE[status], _encode_lines(default), _encode_lines(headers))


def _encode_lines(headers: Headers) -> bytes:
    return b"\r\n".join([*map(b": ".join, headers), b""])
