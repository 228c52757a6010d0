"""Records spans of gRPC calls, on the server and on the client. A call's metadata has the ids of its trace."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any

import grpc
from opentelemetry.trace import Span

from pointsman_servicekit.grpc_errors import Context, Handler, HandlerInterceptor, Method, wrap_handler
from pointsman_servicekit.logs import request_id
from pointsman_servicekit.tracing.spans import Spans, is_in_trace, record_error_code, record_exception, trace_headers


class TracedServer(HandlerInterceptor):
    """A server interceptor that records a span for each call to a service whose name begins with "pointsman.".

    Methods whose names begin with "Watch" get no spans, because their calls last until the client disconnects.
    """

    def __init__(self, spans: Spans) -> None:
        super().__init__()
        self._spans = spans

    def replace(self, handler: Any, method: str) -> Handler:
        name = method.lstrip("/")
        if not name.startswith("pointsman.") or name.rpartition("/")[2].startswith("Watch"):
            return handler  # type: ignore[no-any-return]  # a handler

        def begin(context: Context) -> Span:
            sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            return self._spans.serve(name, sent, {"rpc.system.name": "grpc", "rpc.method": name})

        return wrap_handler(
            handler, lambda behaviour: _unary(behaviour, begin), lambda behaviour: _stream(behaviour, begin)
        )


def _unary(behaviour: Method, begin: Callable[[Context], Span]) -> Method:
    async def call(request: Any, context: Context) -> Any:
        span = begin(context)
        try:
            response = await behaviour(request, context)
        except BaseException as error:
            _tell(span, context, error)
            raise
        else:
            _tell(span, context, None)
            return response
        finally:
            span.end()

    return call


def _stream(behaviour: Method, begin: Callable[[Context], Span]) -> Method:
    if not isasyncgenfunction(behaviour):
        return behaviour

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        span = begin(context)
        try:
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response
        except BaseException as error:
            _tell(span, context, error)
            raise
        else:
            _tell(span, context, None)
        finally:
            span.end()

    return call


def _tell(span: Span, context: Context, error: BaseException | None) -> None:
    span.set_attribute("pointsman.request_id", request_id.get())
    status = context.code()
    if isinstance(error, grpc.aio.AbortError) and isinstance(status, grpc.StatusCode):
        span.set_attribute("rpc.response.status_code", status.name)
        record_error_code(span, status.name)
    elif error is not None:
        record_exception(span, error)
    else:
        span.set_attribute("rpc.response.status_code", "OK")


class TracedCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """A client interceptor that records a span for each unary call that is made within a trace.

    It starts no traces: calls outside a trace, such as those of background tasks, get no span.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """Makes a call. Within a trace, records a span with the call's status.

        Outside a trace, returns at once; within a trace, returns only after the call has ended.
        """
        if not is_in_trace():
            return await continuation(client_call_details, request)
        asked = client_call_details
        method: str | bytes = asked.method
        name = (method.decode() if isinstance(method, bytes) else method).lstrip("/")
        span = self._spans.call(name, {"rpc.system.name": "grpc", "rpc.method": name})
        sent = grpc.aio.Metadata(*(asked.metadata or ()), *trace_headers(span).items())
        below = grpc.aio.ClientCallDetails(asked.method, asked.timeout, sent, asked.credentials, asked.wait_for_ready)
        try:
            call = await continuation(below, request)
            status = await call.code()
            span.set_attribute("rpc.response.status_code", status.name)
            if status is not grpc.StatusCode.OK:
                record_error_code(span, status.name)
        except BaseException as error:
            record_exception(span, error)
            raise
        finally:
            span.end()
        return call
