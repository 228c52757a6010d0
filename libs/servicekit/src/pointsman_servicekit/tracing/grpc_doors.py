"""A span of each call that a gRPC server answers, below the caller's where it sends one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any

import grpc
from opentelemetry.trace import Span

from pointsman_servicekit.correlation import request_id
from pointsman_servicekit.grpc_handlers import Behaviour, Context, Handler, wrapped
from pointsman_servicekit.tracing.spans import Spans, tell_error, tell_failure


class TracedServer(grpc.aio.ServerInterceptor):
    """For our own services; not for health and reflection, nor for watches, which end with their client."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        name = handler_call_details.method.lstrip("/")
        if not name.startswith("pointsman.") or name.rpartition("/")[2].startswith("Watch"):
            return handler

        def begin(context: Context) -> Span:
            sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            return self._spans.serve(name, sent, {"rpc.system.name": "grpc", "rpc.method": name})

        return wrapped(handler, lambda behaviour: _unary(behaviour, begin), lambda behaviour: _stream(behaviour, begin))


def _unary(behaviour: Behaviour, begin: Callable[[Context], Span]) -> Behaviour:
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


def _stream(behaviour: Behaviour, begin: Callable[[Context], Span]) -> Behaviour:
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
        tell_error(span, status.name)
    elif error is not None:
        tell_failure(span, error)
    else:
        span.set_attribute("rpc.response.status_code", "OK")
