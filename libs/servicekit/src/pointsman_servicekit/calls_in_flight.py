"""Exports how many calls a gRPC server is working on, by method."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from pointsman_servicekit.grpc_errors import Context, Handler, HandlerInterceptor, Method, wrap_handler


class CallsInFlight(HandlerInterceptor):
    """A server interceptor that exports the number of calls in progress, by method, as `pointsman_grpc_in_flight`.

    The method Watch of the health service is left out, because its calls last as long as a client watches. Unknown
    methods are not counted, so that clients cannot create label values.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._calls = Gauge("pointsman_grpc_in_flight", "Calls being worked on.", ["method"], registry=registry)

    def replace(self, handler: Any, method: str) -> Handler:
        calls = self._calls.labels(method.lstrip("/"))
        return wrap_handler(
            handler, lambda behaviour: _unary(behaviour, calls), lambda behaviour: _stream(behaviour, calls)
        )


def _unary(behaviour: Method, calls: Gauge) -> Method:
    async def call(request: Any, context: Context) -> Any:
        with calls.track_inprogress():
            return await behaviour(request, context)

    return call


def _stream(behaviour: Method, calls: Gauge) -> Method:
    if not isasyncgenfunction(behaviour):
        return behaviour  # health's Watch writes to the context itself

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        with calls.track_inprogress():
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    return call
