"""The HTTP response of embeddings and reranking: calls the model while it is sent, and cancels the call if the
client disconnects.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Generic

from pointsman_servicekit.buffer_budget import BufferReservation
from pointsman_servicekit.errors import NotFound
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pointsman_gateway.codec.headers import Headers
from pointsman_gateway.http.asgi_answer import ClientDisconnected, run_until_disconnect, send_error
from pointsman_gateway.http.encoding import JSON_TYPE, ErrorFormat, encode_headers
from pointsman_gateway.model_calls.call import AnswerT, CallableModels, Called
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.pipeline.public_error import to_public_error


class ModelCallResponse(Response, Generic[AnswerT]):
    def __init__(
        self,
        pipeline: Pipeline,
        models: CallableModels[Any, AnswerT],
        inputs: Any,
        encode: Callable[[AnswerT], tuple[bytes, ...]],
        error_format: ErrorFormat,
    ) -> None:
        """`inputs` is the decoded request, a dataclass with the field `reserve`. `encode` returns the body in pieces,
        because writing it at once could block the event loop.
        """
        self.background = None
        self._pipeline, self._models, self._inputs = pipeline, models, inputs
        self._encode, self._error_format = encode, error_format
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_until_disconnect(scope, receive, self._answer(send))
        except (ClientDisconnected, OSError):
            if not self._has_started:
                request = self._inputs.request
                self._pipeline.record_rejection(request.operation, None, caller=request.caller)

    async def _answer(self, send: Send) -> None:
        self._has_started = True
        held = self._models.reserve_answer()
        try:
            await self._call_and_send(send, held)
        finally:
            held.release()

    async def _call_and_send(self, send: Send, held: BufferReservation) -> None:
        request = self._inputs.request
        inputs = replace(self._inputs, reserve=partial(held.grow, request.caller.tenant))
        try:
            call = self._models.call(inputs)
        except NotFound as rejection:
            self._pipeline.record_rejection(request.operation, rejection, caller=request.caller)
            await send_error(send, rejection, [], self._error_format)
            return
        try:
            called = await self._pipeline.call_model(call)
        except Exception as error:
            await send_error(send, to_public_error(error), [], self._error_format)
            return
        await self._send(send, called)

    async def _send(self, send: Send, called: Called[AnswerT]) -> None:
        pieces = self._encode(called.answer)
        own_headers = {"x-pointsman-cost-usd": f"{called.usd:.9f}", **called.headers}
        length = (b"content-length", b"%d" % sum(map(len, pieces)))
        headers: Headers = [JSON_TYPE, *encode_headers(own_headers), length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
