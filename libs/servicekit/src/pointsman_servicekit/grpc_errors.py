"""Converts PointsmanErrors to gRPC's rich statuses and back, and wraps the handlers of gRPC servers.

A rich status is a status with further messages: here an ErrorInfo with the error's code, and a RetryInfo if a retry may
help.
"""

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from pointsman_servicekit.errors import FAMILIES, Internal, PointsmanError, Unavailable

DOMAIN = "pointsman"
_NO_CONNECTION = re.compile(
    r"failed to connect to all addresses; last error: [A-Z_]+: (?:ipv[46]:)?(\S+): (?:.*: )?(.+)"
)
"""gRPC's text if no connection could be opened: the address and the reason."""
_BY_STATUS = {family.grpc_status: family for family in FAMILIES}

# What grpcio calls for one method; None if no servicer has it. Quoted: grpcio's classes are generic in its stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Method: TypeAlias = Any
"""A servicer's method: a coroutine function or an async generator function of a request and its context."""
Wrap = Callable[[Method], Method]


def to_status(error: PointsmanError) -> Any:
    """Returns the gRPC status of an error, for `context.abort_with_status`.

    It has the error's message, code, `param` and `retry_after`, and nothing else. Lone surrogates in message and
    `param` become "?", because protobuf refuses them.
    """
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN)
    if error.param:
        info.metadata["param"] = _encodable(error.param)
    details = [_packed(info)]
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=error.retry_after))
        details.append(_packed(retry))
    return rpc_status.to_status(
        status_pb2.Status(code=error.grpc_status.value[0], message=_encodable(error.message), details=details)
    )


def from_rpc_error(error: grpc.aio.AioRpcError, service: str) -> PointsmanError:
    """Converts the error of a gRPC call back to the PointsmanError that the called service has raised.

    If the status has no PointsmanError, the result is DeadlineExceeded ("deadline_exceeded") after a timeout, and
    Unavailable ("SERVICE_unavailable") in all other cases. `service` is the called service's name, such as "retriever".
    """
    code, message = error.code(), error.details() or ""
    status = rpc_status.from_call(cast(grpc.Call, error))  # it has what from_call reads
    if status is not None:
        reason, param, retry_after = _read_details(status)
        if reason:
            family = _BY_STATUS.get(code, Internal)
            return family(message, code=reason, param=param, retry_after=retry_after)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _BY_STATUS[code](f"{service} did not answer in time", code="deadline_exceeded")
    refused = _NO_CONNECTION.fullmatch(message)
    at = (
        f"{service} cannot be reached at {refused[1]}: {refused[2]}"
        if refused
        else f"{service} cannot be reached: {message}"
    )
    return Unavailable(at, code=f"{service}_unavailable", retry_after=1.0)


def _read_details(status: status_pb2.Status) -> tuple[str | None, str | None, float | None]:
    reason = param = retry_after = None
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, param = info.reason, info.metadata.get("param")
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, param, retry_after


def _encodable(text: str) -> str:
    """Replaces lone surrogates, which protobuf refuses: a message may quote what a client has sent."""
    return text.encode(errors="replace").decode()


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def wrap_handler(handler: Handler, unary: Wrap, stream: Wrap) -> Handler:
    """Returns a handler of the same kind whose method is wrapped.

    `unary` wraps a method that returns one response, `stream` one that yields several. Returns None if `handler` is
    None, that is, for an unknown method.
    """
    if handler is None:
        return handler  # an unknown method
    wires = handler.request_deserializer, handler.response_serializer
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(stream(handler.stream_stream), *wires)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(unary(handler.stream_unary), *wires)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(stream(handler.unary_stream), *wires)
    return grpc.unary_unary_rpc_method_handler(unary(handler.unary_unary), *wires)


class HandlerInterceptor(grpc.aio.ServerInterceptor):
    """Base class of server interceptors that replace the handler of each method by what `replace` returns.

    Subclasses implement `replace`. Its arguments are a handler and the path of the handler's method
    ("/pointsman.v1.Retriever/Search"). It is called once for each method: the result is kept for later calls.
    """

    def __init__(self) -> None:
        self._replacements: dict[Handler, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # an unknown method, whose name the client has chosen
        replacement = self._replacements.get(handler)
        if replacement is None:
            replacement = self._replacements[handler] = self.replace(handler, handler_call_details.method)
        return replacement

    def replace(self, handler: Any, method: str) -> Handler:
        raise NotImplementedError
