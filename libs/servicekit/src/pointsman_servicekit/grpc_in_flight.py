"""Counts the calls that a gRPC server works on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Gauge

from pointsman_servicekit.grpc_handlers import Behaviour, Context, Handler, wrapped


class InFlight(grpc.aio.ServerInterceptor):
    """A gauge by method; methods are those of the contract, so that clients can invent no series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Gauge("pointsman_grpc_in_flight", "Calls being worked on.", ["method"], registry=registry)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # its name is the client's invention
        calls = self._calls.labels(handler_call_details.method.lstrip("/"))
        return wrapped(handler, lambda behaviour: _unary(behaviour, calls), lambda behaviour: _stream(behaviour, calls))


def _unary(behaviour: Behaviour, calls: Gauge) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        with calls.track_inprogress():
            return await behaviour(request, context)

    return call


def _stream(behaviour: Behaviour, calls: Gauge) -> Behaviour:
    if not isasyncgenfunction(behaviour):
        return behaviour  # health's Watch writes to the context itself

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        with calls.track_inprogress():
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    return call
