"""The express lane: a chat request from the bytes that came to the bytes that go, without a task and a framework.

    bytes -> Head, Chat -> Pipeline.begin -> Express.ask -> Passenger.came ... -> Pipeline.write -> bytes
                                                                                             -> Pipeline.settle

It does what `ChatRoute` and `Answering` do, with the same line, the same encoder and the same books. Whatever takes
waiting, and whatever is out of the ordinary, is handed over to them, as far as it has come.
"""

import asyncio
import time
from typing import Protocol

from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, PointsmanError
from pointsman_servicekit.logs import request_id
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pointsman_gateway.domain import Chunk, Chunks, Finished, Started
from pointsman_gateway.domain.outcome import CANCELLED
from pointsman_gateway.doors import openai_answers as answers
from pointsman_gateway.doors.answering import EVENTS, JSON, STALLED, encoded, error_answer
from pointsman_gateway.doors.callers import shown_by
from pointsman_gateway.doors.edge import name_of
from pointsman_gateway.doors.express_request import Heads, head_of, read_body
from pointsman_gateway.doors.express_ride import Ride
from pointsman_gateway.doors.handed_over import HandedOver
from pointsman_gateway.doors.http_door import HttpDoor, seconds_of
from pointsman_gateway.doors.openai_answers import ChatEncoder, Headers
from pointsman_gateway.pipeline import Pipeline

CHUNKED = [(b"transfer-encoding", b"chunked")]
LONGEST_BODY = 256 * 1024
"""Bytes; longer ones are collected where there is a better bound on them."""

LAST_CHUNK = b"0\r\n\r\n"


class Client(Protocol):
    """A connection, as the lane sees it."""

    transport: asyncio.Transport

    @property
    def default_headers(self) -> Headers:
        """That every answer has."""
        ...

    def hand_over(self, handed: HandedOver, data: bytes) -> None:
        """The request, whose bytes are `data`, goes on in the ordinary way."""
        ...

    def freed(self, *, close: bool = False) -> None:
        """The request is over: the next one may come, or the connection is closed."""
        ...


class ExpressLane:
    """Takes the requests that it can carry."""

    def __init__(self, door: HttpDoor) -> None:
        self._pipeline = door.pipeline
        self._tenancy = door.tenancy
        self._request_timeout = door.request_timeout
        self._heads = Heads()
        self._clock = asyncio.get_running_loop().time  # to ask for the loop is a system call before Python 3.12

    def length_of(self, data: bytes) -> int:
        """Bytes that a request has which begins so; 0 where it is not for the lane."""
        head_bytes = head_of(data)
        head = self._heads.read(head_bytes) if head_bytes else None
        if head is None or head.length > LONGEST_BODY:
            return 0
        length = len(head_bytes) + head.length
        if length > len(data) and self._tenancy.identify_now(shown_by(head.authorization)) is None:
            return 0  # no body is collected for a key that has not been checked
        return length

    def take(self, client: Client, data: bytes) -> "Passenger | HandedOver | None":
        """A whole request. A passenger is on its way; else it goes the ordinary one, with what has been done of it."""
        arrived = time.perf_counter()
        head_bytes = head_of(data)
        head = self._heads.read(head_bytes)
        if head is None:
            return None
        caller = self._tenancy.identify_now(shown_by(head.authorization))
        chat = None if caller is None else read_body(data[len(head_bytes) :])
        if caller is None or chat is None:
            return None
        try:
            deadline = self._clock() + seconds_of(head.timeout, self._request_timeout)
        except InvalidArgument:
            return None
        name = name_of(head.name)
        token = request_id.set(name)
        try:
            begun = self._pipeline.begin(chat.to_request(deadline, caller, head.cache, arrived))
            handed = HandedOver(begun, chat.stream, chat.includes_usage, name)
            passenger = Passenger(self._pipeline, client, handed, data)
            if begun.lacks_little:
                passenger.wait()
                return passenger
            return passenger if passenger.departs() else handed
        finally:
            request_id.reset(token)

    def refused(self, handed: HandedOver) -> None:
        """Its bytes cannot be read after all: it has come to its end."""
        token = request_id.set(handed.name)
        try:
            self._pipeline.end(handed.begun, CANCELLED)
        finally:
            request_id.reset(token)


class Passenger(Ride):
    """One request of an HTTP connection."""

    def __init__(self, pipeline: Pipeline, client: Client, handed: HandedOver, data: bytes) -> None:
        super().__init__(pipeline, handed.begun, handed.name, as_a_whole=not handed.streams)
        self._client = client
        self._handed = handed
        self._data = data
        self._encoder = ChatEncoder(handed.include_usage)
        self._chunks: list[Chunk] = []
        """Of a plain answer, so far."""
        self._head = b""
        """Of the answer, but for what is known at its beginning or its end only."""
        self._unwritten = b""
        """Of a stream: what goes with the next piece, which follows at once; to write twice takes twice as long."""
        self._has_answered = False
        """Whether the end of an answer has been written."""
        self._has_freed = False
        self._stalled: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[None] | None = None

    def wait(self) -> None:
        """Departs later: as soon as there is what `begin` could not have at once."""
        self._waiting = asyncio.create_task(self._pipeline.go_on(self._begun))
        self._waiting.add_done_callback(self._waited)

    def gone(self) -> None:
        if self._waiting is None:
            super().gone()
        else:
            self._over = True
            self._waiting.cancel()  # what it has got by then is given back once it has ended

    def freed(self) -> None:
        self._free()

    def _waited(self, waiting: "asyncio.Task[None]") -> None:
        self._waiting = None
        if self._over or waiting.cancelled():
            self._settle(CANCELLED)
        elif not self.departs():
            self._left()

    def pause(self) -> None:
        """The client does not read on for now."""
        if self._sent is not None and not self._over:
            self._sent.pause()
            loop, deadline = asyncio.get_running_loop(), self._begun.request.deadline
            self._stalled = loop.call_at(deadline + STALLED, self._stall)

    def resume(self) -> None:
        self._unwatch()
        if self._sent is not None and not self._over:
            self._sent.resume()

    def _foreseen(self, started: Started) -> None:
        sort = EVENTS if self._handed.streams else [JSON]
        self._head = _lines([*sort, *self._beside, *answers.decision_headers(started), *encoded(started.limit_headers)])

    def _opened(self, started: Started) -> None:
        if self._handed.streams:
            self._unwritten = _head(200, self._client.default_headers, self._head, CHUNKED)
            self._unwritten += _chunk(self._encoder.begun(started))

    def _piece(self, chunks: Chunks, last: bool) -> None:
        if not self._handed.streams:
            self._chunks.extend(chunks)
        elif last:
            self._unwritten += _chunk(self._encoder.chunks(chunks))
        else:
            self._write_chunk(self._encoder.chunks(chunks))

    def _arrived(self, started: Started, finished: Finished) -> None:
        if self._handed.streams:
            self._write_chunk(self._encoder.finished(finished), last=True)
        else:
            body = self._encoder.whole(started, self._chunks, finished)
            self._write_whole(200, self._head, [answers.cost_header(finished.receipt)], body)

    def _failed(self, error: PointsmanError) -> None:
        """As an answer of its own, or where one has begun as its last event."""
        if self._handed.streams and self._started is not None:
            self._write_chunk(self._encoder.failed(error), last=True)
        else:
            status, headers, body = error_answer(error, self._beside)
            self._write_whole(status, b"", headers, body)
        self._free()

    def _left(self) -> None:
        self._client.hand_over(self._handed, self._data)

    def _crashed(self, error: PointsmanError) -> None:
        if not self._has_answered:
            self._failed(error)
        self._free(close=True)

    def _stall(self) -> None:
        """Who does not read its answer keeps neither the engine nor a place here for longer than its time."""
        if not self._over:
            self._stop()
            said = DeadlineExceeded("the answer was not read in the request's time", code="deadline_exceeded")
            self._settle(said.code, said)
            self._free(close=True)

    def _free(self, *, close: bool = False) -> None:
        """Once: when it is said again, the client may be busy with its next request."""
        if not self._has_freed:
            self._has_freed = True
            self._client.freed(close=close)

    def _arrive(self) -> None:
        super()._arrive()
        self._unwatch()

    def _unwatch(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    @property
    def _beside(self) -> Headers:
        return [(b"x-request-id", self._handed.name.encode())]

    def _write_whole(self, status: int, foreseen: bytes, headers: Headers, body: bytes) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        self._has_answered = True
        self._client.transport.write(_head(status, self._client.default_headers, foreseen, headers) + body)

    def _write_chunk(self, piece: bytes, *, last: bool = False) -> None:
        written = self._unwritten + _chunk(piece)
        if last:
            self._has_answered = True
            written += LAST_CHUNK
        if written:
            self._unwritten = b""
            self._client.transport.write(written)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def _head(status: int, first: Headers, foreseen: bytes, last: Headers) -> bytes:
    return b"%b%b%b%b\r\n" % (STATUS_LINE[status], _lines(first), foreseen, _lines(last))


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
