"""Work that stops the moment its client hangs up."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from pointsman_servicekit.errors import PointsmanError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pointsman_gateway.domain import Request
from pointsman_gateway.http.encoding import Encoder
from pointsman_gateway.http.openai.chat_encoder import Headers
from pointsman_gateway.http.sinks import HttpAnswer, error_response
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.pipeline.sinks import AnswerNotRead, ItemQueue

Answer = TypeVar("Answer")

ON_HANG_UP = "pointsman.on_hang_up"
"""In an ASGI scope, by a server that can: what it calls when the client hangs up before its answer is complete.

It is None at first, and `HUNG_UP` where that has happened already. Waiting for `receive` to say so instead takes a task
of its own, which costs more than reading the request.
"""
HUNG_UP = "hung up"


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


async def until_hung_up(scope: Scope, receive: Receive, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The work's result; cancels it, and raises ClientGone, when the client hangs up first."""
    working = asyncio.current_task()
    assert working is not None
    watch = _Watch(working)
    watching = None
    if ON_HANG_UP not in scope:
        watching = asyncio.create_task(watch.listen(receive))
    elif scope[ON_HANG_UP] is HUNG_UP:
        work.close()
        raise ClientGone
    else:
        scope[ON_HANG_UP] = watch.hung_up
    try:
        return await work
    except asyncio.CancelledError:
        if watch.gone and working.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        if watching is None:
            scope[ON_HANG_UP] = HUNG_UP if watch.gone else None
        else:
            watching.cancel()


class _Watch:
    def __init__(self, working: asyncio.Task[Any]) -> None:
        self.gone = False
        self._working = working

    def hung_up(self) -> None:
        self.gone = True
        self._working.cancel()

    async def listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.hung_up()


class AsgiSink(HttpAnswer, ItemQueue[Message]):
    """Implements `AnswerSink` as a queue of ASGI messages."""

    def __init__(self, encoder: Encoder, streams: bool, extra_headers: Sequence[tuple[bytes, bytes]]) -> None:
        HttpAnswer.__init__(self, encoder, streams, extra_headers)
        ItemQueue.__init__(self)

    def failed(self, error: PointsmanError) -> None:
        if isinstance(error, AnswerNotRead):
            self.close(error)
        else:
            HttpAnswer.failed(self, error)

    def closed(self) -> None:
        self.detach()

    def send_head(self, headers: Headers) -> None:
        self.put({"type": "http.response.start", "status": 200, "headers": headers})

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        if piece:
            self.put({"type": "http.response.body", "body": piece, "more_body": True})

    def send_end(self, piece: bytes) -> None:
        self.put({"type": "http.response.body", "body": piece, "more_body": False})

    def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        for message in whole_response(status, headers, body):
            self.put(message)


class AsgiAnswer(Response):
    """Answers one request while it is sent. FastAPI takes it for a response."""

    def __init__(
        self,
        pipeline: Pipeline,
        request: Request,
        encoder: Encoder,
        streams: bool,
        extra_headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.background = None
        self._pipeline = pipeline
        self._request = request
        self._sink = AsgiSink(encoder, streams, extra_headers)
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The run has metered a request whose client has gone.
        try:
            await until_hung_up(scope, receive, self._answer(send))
        except (ClientGone, AnswerNotRead, OSError):
            if not self._has_begun:
                request = self._request
                self._pipeline.turned_away(request.operation, None, request.arrived_at, request.caller)

    async def _answer(self, send: Send) -> None:
        self._has_begun = True
        sink = self._sink
        sink.run = run = self._pipeline.run(self._request, sink)
        run.start()
        del run
        await sink.write_to(send, self._request.deadline)


async def send_error(send: Send, error: PointsmanError, extra_headers: Headers) -> None:
    for message in whole_response(*error_response(error, extra_headers)):
        await send(message)


def whole_response(status: int, headers: Headers, body: bytes) -> tuple[Message, Message]:
    headers.append((b"content-length", b"%d" % len(body)))
    return (
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    )
