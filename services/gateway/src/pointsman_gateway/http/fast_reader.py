"""Reads the usual head of a chat request from its bytes, in one go.

What is not read here is no error: uvicorn reads it, and says what is wrong with it if anything is.
"""

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from pointsman_servicekit.logs import request_id
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pointsman_gateway.codec.headers import credential_of, wish_of
from pointsman_gateway.http.asgi_app import name_of
from pointsman_gateway.http.dependencies import HttpDoor, seconds_of
from pointsman_gateway.http.openai.chat import includes_usage, read_usual_chat, to_request
from pointsman_gateway.http.openai.chat_encoder import ChatEncoder, Headers
from pointsman_gateway.http.sinks import HttpAnswer
from pointsman_gateway.pipeline.run import RequestRun
from pointsman_gateway.pipeline.sinks import UNREAD_SECONDS, AnswerNotRead

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
"""How each of these requests begins."""

MOST_HEADS = 1024
"""Heads that are kept in mind; a client sends the same one again and again."""
LONGEST_HEAD = 4096
"""Bytes."""

END_OF_HEAD = b"\r\n\r\n"
_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+\r\n")
"""RFC 9112, 5: a token, a colon, and what can be seen; whatever else some send is for the parser to judge."""
_OF_THE_CONNECTION = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer"})
_OF_ONE_REQUEST = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""Heads that have one of these are not kept: they do not come again."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the gateway heeds of a request's headers."""

    length: int
    """Of the body, in bytes."""
    authorization: str
    name: bytes | None
    """The client's own for the request."""
    timeout: bytes | None
    cache: str
    headers: int
    """How many there are."""


class Heads:
    """Reads the heads of requests."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """From the request line to the empty line; None where it is not for the express lane."""
        known = self._known.get(head)
        if known is not None:
            return known
        if len(head) > LONGEST_HEAD or not _HEADERS.fullmatch(head, len(LINE)):
            return None
        lines = [line.partition(b":") for line in head[len(LINE) : -len(END_OF_HEAD)].split(b"\r\n")]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = headers.get(b"content-length", b"")
        stays = headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        if len(headers) < len(lines):
            return None
        if not length.isdigit() or not stays or headers.keys() & _OF_THE_CONNECTION:
            return None
        read = Head(
            int(length),
            headers.get(b"authorization", b"").decode("latin-1"),
            headers.get(b"x-request-id"),
            headers.get(b"x-request-timeout"),
            wish_of(headers.get(b"cache-control")),
            len(lines),
        )
        if not headers.keys() & _OF_ONE_REQUEST:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[head] = read
        return read


CHUNKED = (b"transfer-encoding", b"chunked")
MAX_BODY_BYTES = 256 * 1024
"""Longer bodies are collected by uvicorn, which has a better bound on them."""

LAST_CHUNK = b"0\r\n\r\n"


class Client(Protocol):
    """A connection, as the lane sees it."""

    transport: asyncio.Transport

    @property
    def default_headers(self) -> Headers:
        """That every response has."""
        ...

    def freed(self, *, close: bool = False) -> None:
        """The request is over: the next one may come, or the connection is closed."""
        ...


class ExpressLane:
    """Reads the requests that it understands, and starts them."""

    def __init__(self, door: HttpDoor) -> None:
        self._pipeline = door.pipeline
        self._tenancy = door.tenancy
        self._request_timeout = door.request_timeout
        self._heads = Heads()
        self._clock = asyncio.get_running_loop().time  # to ask for the loop is a system call before Python 3.12

    def take(self, client: Client, data: bytes, max_headers: int) -> "ConnectionSink | int":
        """Starts the request in `data`; it may be over by the return. Else how many bytes it has, if it has not come as
        a whole; 0 if it is for uvicorn, and nothing has been done."""
        arrived = time.perf_counter()
        end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        head = self._heads.read(data[:end]) if end >= len(END_OF_HEAD) else None
        if head is None or head.length > MAX_BODY_BYTES or head.headers > max_headers:
            return 0
        caller = self._tenancy.identify_now(credential_of(head.authorization))
        length = end + head.length
        if caller is None or length < len(data):
            return 0  # no body is collected for a key that has not been checked
        if length > len(data):
            return length
        try:
            body = read_usual_chat(data[end:])
            if body is None:
                return 0
            deadline = self._clock() + seconds_of(head.timeout, self._request_timeout)
            request = to_request(body, deadline, caller, head.cache, arrived)
        except InvalidArgument:
            return 0  # it is worded where it is read again
        name = name_of(head.name)
        encoder = ChatEncoder(includes_usage(body.stream_options))
        sink = ConnectionSink(client, deadline, encoder, not request.as_a_whole, name)
        token = request_id.set(name)
        try:
            sink.run = run = self._pipeline.run(request, sink)
            run.start()
        finally:
            request_id.reset(token)
        return sink


class ConnectionSink(HttpAnswer):
    """Writes one answer to a connection. Implements `AnswerSink`."""

    def __init__(self, client: Client, deadline: float, encoder: ChatEncoder, streams: bool, name: str) -> None:
        super().__init__(encoder, streams, [(b"x-request-id", name.encode())])
        self.run: RequestRun | None = None
        self._client: Client | None = client
        self._deadline = deadline
        self._unwritten = b""
        """Goes with the next piece, which follows at once: to write twice takes twice as long."""
        self._has_answered = False
        """Whether the end of the response has been written."""
        self._must_close = False
        self._stall: asyncio.TimerHandle | None = None

    # -- what the connection does

    def pause(self) -> None:
        """The client does not read on for now; it must in time."""
        run = self.run
        if run is not None:
            run.pause()
            self._stall = asyncio.get_running_loop().call_at(
                self._deadline + UNREAD_SECONDS, run.cancel, AnswerNotRead()
            )

    def resume(self) -> None:
        self._unwatch()
        if self.run is not None:
            self.run.resume()

    def cancel(self) -> None:
        """The client has gone."""
        if self.run is not None:
            self.run.cancel()

    # -- what the run does

    def failed(self, error: PointsmanError) -> None:
        if isinstance(error, AnswerNotRead):
            self._must_close = True
        elif not self._has_answered:
            super().failed(error)
        else:
            self._must_close = True  # its end went wrong once it was written

    def closed(self) -> None:
        self._unwatch()
        client, self._client, self.run = self._client, None, None
        if client is not None:
            client.freed(close=self._must_close)

    # -- how it is sent

    def send_head(self, headers: Headers) -> None:
        assert self._client is not None
        self._unwritten = _head(200, self._client.default_headers, [*headers, CHUNKED])

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        written = self._unwritten + _chunk(piece)
        if more:
            self._unwritten = written
        elif written:
            self._unwritten = b""
            self._write(written)

    def send_end(self, piece: bytes) -> None:
        self._has_answered = True
        self._write(self._unwritten + _chunk(piece) + LAST_CHUNK)

    def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        assert self._client is not None
        headers.append((b"content-length", b"%d" % len(body)))
        self._has_answered = True
        self._write(_head(status, self._client.default_headers, headers) + body)

    def _write(self, data: bytes) -> None:
        assert self._client is not None
        self._client.transport.write(data)

    def _unwatch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def _head(status: int, default: Headers, headers: Headers) -> bytes:
    return b"%b%b%b\r\n" % (STATUS_LINE[status], _lines(default), _lines(headers))


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
