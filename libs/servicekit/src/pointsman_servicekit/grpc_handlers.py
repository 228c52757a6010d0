"""What an interceptor of a gRPC server puts around the handlers of all four shapes of call."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

# None where no servicer has the method. In quotes: grpcio's classes are generic in their stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = Any
"""A coroutine function, or one that yields; of a request and its context."""
Wrap = Callable[[Behaviour], Behaviour]


def wrapped(handler: Handler, unary: Wrap, stream: Wrap) -> Handler:
    """The handler with its behaviour wrapped: by `unary` where it returns one response, by `stream` where it yields.

    They are told apart since awaiting a stream is a TypeError.
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
