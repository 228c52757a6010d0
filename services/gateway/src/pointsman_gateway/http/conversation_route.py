"""Handles requests for conversations without FastAPI, in those dialects (APIs) that declare a `DirectReading`."""

import asyncio

from pointsman_gateway.codec.headers import cache_mode, credential_of, identify_caller
from pointsman_gateway.http.asgi_answer import CALLER, AsgiAnswer, ClientDisconnected, send_error
from pointsman_gateway.http.asgi_app import RawRequest
from pointsman_gateway.http.dependencies import HttpDependencies, caller_in, deadline_after
from pointsman_gateway.http.dialect import Dialect, DirectReading
from pointsman_gateway.pipeline.public_error import to_public_error


class ConversationRoute:
    """Handles the conversations of one dialect (such as OpenAI's chat completions) without FastAPI: checks the key,
    reads the body, and answers.
    """

    def __init__(self, dependencies: HttpDependencies, dialect: Dialect, reading: DirectReading) -> None:
        self._dependencies = dependencies
        self._dialect = dialect
        self._reading = reading

    async def __call__(self, request: RawRequest) -> None:
        pipeline, operation = self._dependencies.pipeline, self._dialect.operation
        try:
            answer = await self._prepare(request)
        except (ClientDisconnected, asyncio.CancelledError) as error:
            pipeline.record_rejection(operation, None, request.arrived, caller=caller_in(request.scope))
            if isinstance(error, ClientDisconnected):
                return
            raise
        except Exception as error:
            rejection = to_public_error(error)
            pipeline.record_rejection(operation, rejection, request.arrived, caller=caller_in(request.scope))
            await send_error(request.send, rejection, request.response_headers, self._dialect.error_format)
            return
        await answer(request.scope, request.receive, request.send)

    async def _prepare(self, request: RawRequest) -> AsgiAnswer:
        parts, headers = self._dependencies, request.headers
        request.scope[CALLER] = caller = await identify_caller(parts.tenancy, credential_of(headers))
        body = self._reading.decode(await request.read_body(caller))
        body.read_headers(headers)
        deadline = deadline_after(headers.get(b"x-request-timeout"), parts.request_timeout)
        decoded = body.to_request(deadline, caller, cache_mode(headers.get(b"cache-control")), request.arrived)
        return AsgiAnswer(parts.pipeline, decoded, body.encoder(), bool(body.stream), request.response_headers)
