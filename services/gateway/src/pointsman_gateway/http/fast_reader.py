"""Reads conversations of the common form directly from the bytes of a connection, without uvicorn and ASGI, which
is faster.

A `ConnectionSink` writes the answer to the connection in the same way. uvicorn gets all other requests: for example
those without Content-Length, with content in parts or undeclared fields, larger than `MAX_BODY_BYTES`, malformed, or
with a key that is not in memory. It also sends the errors.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.logs import request_id

from pointsman_gateway.codec.headers import cache_mode, credential_of
from pointsman_gateway.http.asgi_app import request_id_from
from pointsman_gateway.http.dependencies import HttpDependencies, parse_timeout
from pointsman_gateway.http.dialect import ReadPlain
from pointsman_gateway.http.dialects.registry import DIALECTS
from pointsman_gateway.http.sinks import ClientConnection, ConnectionSink

_READINGS = [(one.path, one.direct) for one in DIALECTS if one.direct]
_READERS: Mapping[bytes, ReadPlain] = {
    f"POST {path}{query} HTTP/1.1\r\n".encode(): reading.read_plain
    for path, reading in _READINGS
    for query in ("", *reading.queries)
}
"""The readers of bodies, by the first line of the request."""
REQUEST_LINES = tuple(_READERS)
"""The first lines of the requests that are read here."""

MAX_CACHED_HEADS = 256
"""Maximum number of parsed heads that are cached, since clients send the same head many times. Each takes 0.5 kB."""
MAX_HEAD_BYTES = 4096
MAX_BODY_BYTES = 256 * 1024
"""Maximum length of a body that is read here; uvicorn reads longer ones."""

_END_OF_HEAD = b"\r\n\r\n"
_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+\r\n")
"""Matches header fields by RFC 9112, section 5, with ASCII values; all others are left to uvicorn's parser."""
_UNUSUAL_HEADERS = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer"}).union(
    *[reading.rare_headers for _, reading in _READINGS]
)
"""Lower-case names of headers: uvicorn handles all requests with one of these headers."""
_PER_REQUEST_HEADERS = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""Heads with one of these are not cached, since they differ between requests."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The part of the first line and the headers of a request that the gateway uses."""

    length: int
    """Bytes of the body."""
    credential: str
    """The caller's key; empty if there is none."""
    request_id: bytes | None
    """The header x-request-id, as sent by the client."""
    timeout: bytes | None
    """The header x-request-timeout, as sent by the client."""
    cache: str
    header_count: int
    read_body: ReadPlain
    """The function that decodes the body, from the request's API (`DirectReading.read_plain`)."""


class HeadParser:
    """Parses the request line and headers of requests, and keeps the results for identical ones."""

    def __init__(self, leaves_browsers: bool = False) -> None:
        """Takes `leaves_browsers`: whether requests of web pages are left to uvicorn, which adds CORS headers."""
        self._cache: dict[bytes, RequestHead] = {}
        self._left_headers = _UNUSUAL_HEADERS | {b"origin"} if leaves_browsers else _UNUSUAL_HEADERS

    def parse(self, head: bytes) -> RequestHead | None:
        """Parses a request's head: the bytes from the request line to the empty line. The request line must be one
        of `REQUEST_LINES`.

        Returns None if uvicorn has to handle the request.
        """
        cached = self._cache.get(head)
        if cached is not None:
            return cached
        start = head.find(b"\n") + 1
        if len(head) > MAX_HEAD_BYTES or not _HEADERS.fullmatch(head, start):
            return None
        lines = [line.partition(b":") for line in head[start : -len(_END_OF_HEAD)].split(b"\r\n")]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = headers.get(b"content-length", b"")
        keeps_alive = headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        if len(headers) < len(lines):
            return None  # a header is repeated
        if not length.isdigit() or not keeps_alive or headers.keys() & self._left_headers:
            return None
        parsed = RequestHead(
            int(length),
            credential_of(headers),
            headers.get(b"x-request-id"),
            headers.get(b"x-request-timeout"),
            cache_mode(headers.get(b"cache-control")),
            len(lines),
            _READERS[head[:start]],
        )
        if not headers.keys() & _PER_REQUEST_HEADERS:
            if len(self._cache) >= MAX_CACHED_HEADS:
                self._cache.clear()
            self._cache[head] = parsed
        return parsed


class BufferingConnection(ClientConnection, Protocol):
    """Interface of the client's connection, as `ChatReader` uses it; `FastConnection` implements it."""

    def reserve_buffer(self, tenant: str, count: int) -> bool:
        """Reserves `count` bytes of memory for the current request of `tenant`; does nothing if it has a
        reservation.

        Returns False if too many bytes of requests are in memory already.
        """
        ...


class ChatReader:
    """Reads requests from the bytes of a connection, for those APIs (dialects) that have a `DirectReading`, and
    starts them.
    """

    def __init__(self, dependencies: HttpDependencies) -> None:
        self.budget = dependencies.budget
        self._pipeline = dependencies.pipeline
        self._tenancy = dependencies.tenancy
        self._request_timeout = dependencies.request_timeout
        self._heads = HeadParser(leaves_browsers=bool(dependencies.cors_origins))
        self._clock = asyncio.get_running_loop().time  # before Python 3.12 each get_running_loop is a system call

    def start(self, connection: BufferingConnection, data: bytes, max_headers: int) -> ConnectionSink | int:
        """Starts the request in `data`: all bytes that arrived since the end of the last request.

        Returns the sink to which its answer is written; the request may already have ended. If a part of the request
        is missing, returns the length of the whole request in bytes. Returns 0 if uvicorn has to handle it, for
        example because it has more than `max_headers` headers.
        """
        arrived = time.perf_counter()
        end = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        head = self._heads.parse(data[:end]) if end >= len(_END_OF_HEAD) else None
        if head is None or head.length > MAX_BODY_BYTES or head.header_count > max_headers:
            return 0
        caller = self._tenancy.identify_now(head.credential)
        length = end + head.length
        # No body is buffered before its key is checked, nor if it exceeds the budget.
        if caller is None or length < len(data) or not connection.reserve_buffer(caller.tenant, length):
            return 0
        if length > len(data):
            return length
        try:
            deadline = self._clock() + parse_timeout(head.timeout, self._request_timeout)
            read = head.read_body(data[end:], deadline, caller, head.cache, arrived)
        except InvalidArgument:
            return 0  # reported when the request is read again
        if read is None:
            return 0
        request, encoder = read
        id_of_request = request_id_from(head.request_id)
        sink = ConnectionSink(connection, deadline, encoder, not request.as_a_whole, id_of_request)
        token = request_id.set(id_of_request)
        try:
            sink.run = run = self._pipeline.run(request, sink)
            run.start()
        finally:
            request_id.reset(token)
        return sink
