"""Sends one answer over ASGI, and cancels the request that generates it as soon as the client disconnects."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from pointsman_servicekit.errors import PointsmanError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pointsman_gateway.codec.headers import Headers
from pointsman_gateway.domain import Request
from pointsman_gateway.engines.engine_client import out_of_time
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS
from pointsman_gateway.http.encoding import AnswerEncoder, ErrorFormat, error_response
from pointsman_gateway.http.sinks import HttpSink
from pointsman_gateway.pipeline.admission import UnreadBudget
from pointsman_gateway.pipeline.batch import RequestBatch
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.pipeline.sinks import AnswerNotRead, ItemQueue

Result = TypeVar("Result")

CALLER = "pointsman.caller"
"""Key in the ASGI scope for the `Caller` of the request; it is missing until the API key has been found valid."""

ON_DISCONNECT = "pointsman.on_disconnect"
"""Key in the ASGI scope for a callback, which the server calls if the client disconnects before its answer is complete.

A server that supports the callback stores None under this key at first, and `DISCONNECTED` once the client has
disconnected. The alternative, to wait for `receive`, would need a task for each request, which costs more than reading
the request.
"""
DISCONNECTED = "disconnected"


class ClientDisconnected(Exception):
    """The client has disconnected before its answer was complete."""


class AsgiSink(HttpSink, ItemQueue[Message]):
    """Queues an answer as ASGI messages, which `AsgiAnswer` sends; implements `AnswerSink`."""

    def __init__(
        self, encoder: AnswerEncoder, streams: bool, extra_headers: Sequence[tuple[bytes, bytes]], unread: UnreadBudget
    ) -> None:
        HttpSink.__init__(self, encoder, streams, extra_headers)
        ItemQueue.__init__(self, unread)

    def failed(self, error: PointsmanError) -> None:
        if isinstance(error, AnswerNotRead):
            self.close(error)
        else:
            HttpSink.failed(self, error)

    def closed(self) -> None:
        self.detach()

    def send_head(self, headers: Headers) -> None:
        self.put({"type": "http.response.start", "status": 200, "headers": headers})

    def send_part(self, part: bytes, *, may_wait: bool) -> None:
        if part:
            self.put({"type": "http.response.body", "body": part, "more_body": True}, len(part))

    def send_end(self, part: bytes) -> None:
        self.put({"type": "http.response.body", "body": part, "more_body": False}, len(part))

    def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        for message in _to_messages(status, headers, body):
            self.put(message, len(message.get("body", b"")))


class AsgiAnswer(Response):
    """A response that generates its answer while it is sent, and cancels the request if the client disconnects.

    FastAPI handlers return it. Code without FastAPI calls it directly, as an ASGI application.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        request: Request,
        encoder: AnswerEncoder,
        streams: bool,
        extra_headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.background = None
        self._pipeline = pipeline
        self._request = request
        self._sink = AsgiSink(encoder, streams, extra_headers, pipeline.admission.unread)
        self._extra_headers, self._error_format = list(extra_headers), encoder.error_format
        self._has_run = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_and_record(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await run_until_disconnect(scope, receive, self._run(send_and_record))
        except (ClientDisconnected, AnswerNotRead, OSError) as error:
            if not self._has_run:  # otherwise the run has written the receipt
                request = self._request
                self._pipeline.record_rejection(request.operation, None, request.arrived_at, caller=request.caller)
            if not has_started and not isinstance(error, ClientDisconnected):
                # On a starved machine the time limit may pass before the run has reported its own error.
                await send_error(send, out_of_time(), self._extra_headers, self._error_format)

    async def _run(self, send: Send) -> None:
        self._has_run = True
        sink = self._sink
        sink.run = run = self._pipeline.run(self._request, sink)
        run.start()
        del run
        await sink.write_to(send, self._request.deadline)


class BatchAnswer(AsgiAnswer):
    """A response to an HTTP request with several prompts: a request is run for each prompt, and all answers are sent as
    one answer.
    """

    def __init__(
        self, pipeline: Pipeline, requests: Sequence[Request], choices: int, encoder: AnswerEncoder, streams: bool
    ) -> None:
        """Takes at least one request; all have the same deadline, and each has `choices` choices."""
        super().__init__(pipeline, requests[0], encoder, streams)
        self._requests = requests
        self._choices = choices

    async def _run(self, send: Send) -> None:
        self._has_run = True
        sink = self._sink
        sink.run = batch = RequestBatch(self._pipeline, self._requests, self._choices, sink)
        batch.start()
        del batch
        await sink.write_to(send, self._request.deadline)


async def run_until_disconnect(scope: Scope, receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Awaits `work`, returns its result, and raises its errors.

    If the client disconnects first, cancels `work` and raises ClientDisconnected.
    """
    task = asyncio.current_task()
    assert task is not None
    watch = _DisconnectWatch(task)
    listening = None
    if ON_DISCONNECT not in scope:
        listening = asyncio.create_task(watch.listen(receive))
    elif scope[ON_DISCONNECT] is DISCONNECTED:
        work.close()
        raise ClientDisconnected
    else:
        scope[ON_DISCONNECT] = watch.on_disconnect
    try:
        return await work
    except asyncio.CancelledError:
        if watch.has_disconnected and task.uncancel() == 0:
            raise ClientDisconnected from None
        raise
    finally:
        if listening is None:
            scope[ON_DISCONNECT] = DISCONNECTED if watch.has_disconnected else None
        else:
            listening.cancel()


class _DisconnectWatch:
    """Cancels a task when the client disconnects."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.has_disconnected = False
        self._task = task

    def on_disconnect(self) -> None:
        self.has_disconnected = True
        self._task.cancel()

    async def listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.on_disconnect()


async def send_error(
    send: Send, error: PointsmanError, extra_headers: Headers, error_format: ErrorFormat = OPENAI_ERRORS
) -> None:
    """Sends a complete response that reports the error, in the format of `error_format`; `extra_headers` are added
    to the error's own.
    """
    for message in _to_messages(*error_response(error, extra_headers, error_format)):
        await send(message)


def _to_messages(status: int, headers: Headers, body: bytes) -> tuple[Message, Message]:
    headers.append((b"content-length", b"%d" % len(body)))
    return (
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    )
