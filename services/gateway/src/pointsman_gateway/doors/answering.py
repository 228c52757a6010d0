"""One answer over HTTP: from the pipeline's events, through an encoder, to the client, until that hangs up."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Protocol

from pointsman_servicekit.errors import DeadlineExceeded, Internal, PointsmanError
from pointsman_servicekit.logs import request_id
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pointsman_gateway.begun import Begun
from pointsman_gateway.domain import ANONYMOUS, Caller, Chunk, Event, Finished, Operation, Request, Started
from pointsman_gateway.domain.outcome import CANCELLED
from pointsman_gateway.doors import openai_answers as answers
from pointsman_gateway.doors.encoding import Encoder
from pointsman_gateway.doors.hang_up import ClientGone, until_hung_up
from pointsman_gateway.doors.openai_answers import Headers

log = logging.getLogger(__name__)

STALLED = 0.5
"""Seconds after the deadline until an answer is cut whose client does not read it."""

JSON = (b"content-type", b"application/json")
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Answers(Protocol):
    """The line, as a door sees it."""

    def answer(self, request: Request, begun: Begun | None = None) -> AsyncIterator[Event]: ...

    def end(self, begun: Begun, outcome: str) -> object: ...

    def turned_away(
        self, operation: Operation, error: PointsmanError | None, arrived: float = 0.0, caller: Caller = ANONYMOUS
    ) -> None:
        """A request that does not come to the line leaves its receipt; without an error its client has hung up."""
        ...


class Answering(Response):
    """Walks one request down the line while it is sent; FastAPI takes it for a response.

    What goes wrong before the first byte is an answer with its status, what goes wrong later the stream's last event.
    """

    def __init__(
        self,
        line: Answers,
        asked: Request,
        encoder: Encoder,
        streams: bool,
        sent_beside: Headers | None = None,
        begun: Begun | None = None,
    ) -> None:
        """`sent_beside` are further headers of the answer; `begun` is what the express lane has done of it."""
        self.background = None
        self._line = line
        self._asked = asked
        self._encoder = encoder
        self._streams = streams
        self._beside = sent_beside or []
        self._begun = begun
        self._asks = False
        """Whether it has come to the line."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing is lost with the client: the request has been metered as cancelled where its events were closed.
        try:
            await until_hung_up(scope, receive, self._answer(send))
        except (ClientGone, OSError):
            if not self._asks:
                self._gone()

    def _gone(self) -> None:
        """Before its events were asked for."""
        if self._begun is not None:
            self._line.end(self._begun, CANCELLED)
        else:
            asked = self._asked
            self._line.turned_away(asked.operation, None, asked.arrived_at, asked.caller)

    async def _answer(self, send: Send) -> None:
        self._asks = True
        async with aclosing(self._line.answer(self._asked, self._begun)) as events:  # type: ignore[type-var]  # a generator's
            try:
                started = await anext(events)
                assert isinstance(started, Started)
                if not self._streams:
                    finished, body = await self._whole(started, events)
            except Exception as error:
                await send_error(send, told(error), self._beside)
                return
            headers = [*self._beside, *answers.decision_headers(started), *encoded(started.limit_headers)]
            if self._streams:
                await self._send_in_time(send, headers, started, events)
            else:
                await send_whole(send, 200, [JSON, *headers, answers.cost_header(finished.receipt)], body)

    async def _whole(self, started: Started, events: AsyncIterator[Event]) -> tuple[Finished, bytes]:
        chunks: list[Chunk] = []
        async for event in events:
            if isinstance(event, Finished):
                return event, self._encoder.whole(started, chunks, event)
            if not isinstance(event, Started):
                chunks.extend(event)
        raise AssertionError("the line ends with Finished or with an error")

    async def _send_in_time(self, send: Send, headers: Headers, started: Started, events: AsyncIterator[Event]) -> None:
        """A client that does not read its answer keeps neither the engine nor a place here for longer than its time."""
        try:
            async with asyncio.timeout_at(self._asked.deadline + STALLED):
                await self._send_events(send, headers, started, events)
        except TimeoutError as error:
            stalled = DeadlineExceeded("the answer was not read in the request's time", code="deadline_exceeded")
            try:
                with suppress(StopAsyncIteration, DeadlineExceeded):
                    await events.athrow(stalled)  # type: ignore[attr-defined]  # a generator's; it is metered as what it is
                raise ClientGone from error
            finally:
                del stalled  # or it and this frame, which is in its traceback, hold each other

    async def _send_events(self, send: Send, headers: Headers, started: Started, events: AsyncIterator[Event]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*EVENTS, *headers]})
        async for piece in self._pieces(started, events):
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self, started: Started, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        encoder = self._encoder
        try:
            yield encoder.begun(started)
            async for event in events:
                match event:
                    case tuple():
                        yield encoder.chunks(event)
                    case Finished():
                        yield encoder.finished(event)
        except Exception as error:
            yield encoder.failed(told(error))


def told(error: Exception) -> PointsmanError:
    """The error as the client is told it; what nobody foresaw goes to the log, with an id for the client."""
    if isinstance(error, PointsmanError):
        return error
    log.exception("internal error (request %s)", request_id.get(), exc_info=error)
    return Internal(f"internal error (request {request_id.get()})", code="internal")


async def send_error(send: Send, error: PointsmanError, beside: Headers) -> None:
    await send_whole(send, *error_answer(error, beside))


def error_answer(error: PointsmanError, beside: Headers) -> tuple[int, Headers, bytes]:
    """Status, headers and body."""
    headers = [JSON, *beside, *encoded(answers.error_headers(error)), *encoded(error.limits)]
    return error.http_status, headers, answers.to_json(answers.error_body(error))


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def encoded(headers: Mapping[str, str]) -> Headers:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
