"""Receives the request message of a gRPC call after its caller is authenticated, within limits of time and memory.

A grpc.aio handler of a unary request runs only after its message was received and parsed. `RequestReceiver` therefore
replaces it by a handler of a streamed request, which reads the one message itself: first the gate decides from the
metadata, then the message is received, counted, and parsed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, Unavailable
from pointsman_servicekit.grpc_errors import Context, Handler, HandlerInterceptor, Method

SLOW_AFTER = 0.1
"""Seconds after which a message that is still incomplete counts as slow. gRPC does not tell how much of it has arrived,
so from then on the largest possible message is reserved in the budget."""

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


class Gate(Protocol):
    """Decides whether a gRPC call may go on, before anything of its message is received."""

    async def admit(self, method: str, context: Context) -> str:
        """Returns the tenant to which the message's memory is charged. Raises PointsmanError or aborts the call.

        `method` is the whole path: "/pointsman.v1.Gateway/Route".
        """
        ...


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """Limits on the size and the duration (in seconds) of a gRPC request message."""

    max_bytes: int
    max_fields: int
    """Of the message and all messages in it together; more are refused before they are parsed, since 8 MiB of empty
    messages become 200 MiB of objects."""
    timeout: float
    """From the call's start until its message is complete; the caller's own deadline may be earlier."""


class RequestReceiver(HandlerInterceptor):
    """Authenticates each call to our own services by `gate`, if there is one, then receives its message within the
    limits; the innermost interceptor. A stream of requests is only authenticated.
    """

    def __init__(self, limits: ReceiveLimits, budget: BufferedBytesBudget, gate: Gate | None = None) -> None:
        super().__init__()
        self._limits = limits
        self._budget = budget
        self._gate = gate

    def replace(self, handler: Any, method: str) -> Handler:
        is_ours = method.startswith("/pointsman.")
        gate = self._gate if is_ours else None  # health and reflection need no key
        receive = _Receive(self._limits, self._budget, gate, method, handler.request_deserializer)
        serializer = handler.response_serializer
        if handler.request_streaming:
            if gate is None:
                return handler  # type: ignore[no-any-return]  # a handler
            wires = handler.request_deserializer, serializer
            if handler.response_streaming:
                return grpc.stream_stream_rpc_method_handler(_gated_stream(handler.stream_stream, receive), *wires)
            return grpc.stream_unary_rpc_method_handler(_gated(handler.stream_unary, receive), *wires)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _received_stream(handler.unary_stream, receive), None, serializer
            )
        return grpc.stream_unary_rpc_method_handler(_received(handler.unary_unary, receive), None, serializer)


class _Receive:
    """Authenticates one call, then receives and parses its message, before its method runs."""

    def __init__(
        self,
        limits: ReceiveLimits,
        budget: BufferedBytesBudget,
        gate: Gate | None,
        method: str,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._limits = limits
        self.budget = budget
        self._gate = gate
        self._method = method
        self._deserialize = deserialize
        message_class = getattr(deserialize, "__self__", None)
        self._descriptor = getattr(message_class, "DESCRIPTOR", None)

    async def admit(self, context: Context) -> str:
        """Returns the tenant that calls, empty if calls are not authenticated; raises what `Gate.admit` raises."""
        return "" if self._gate is None else await self._gate.admit(self._method, context)

    async def message(self, context: Context, tenant: str) -> bytes:
        """Receives the message's bytes; raises Unavailable, DeadlineExceeded or InvalidArgument."""
        loop = asyncio.get_running_loop()
        reserved, refusal = 0, None

        def slow() -> None:
            nonlocal reserved, refusal
            try:
                self.budget.reserve(tenant, self._limits.max_bytes)
                reserved = self._limits.max_bytes
                timeout.reschedule(loop.time() + self._limits.timeout - SLOW_AFTER)
            except Unavailable as error:
                refusal = error
                timeout.reschedule(loop.time())

        timer = loop.call_later(SLOW_AFTER, slow)
        try:
            async with asyncio.timeout(None) as timeout:
                message: Any = await context.read()
        except TimeoutError:
            if refusal is not None:
                raise refusal from None
            reason = f"the message did not arrive within {self._limits.timeout:g} s"
            raise DeadlineExceeded(reason, code="deadline_exceeded") from None
        finally:
            timer.cancel()
            if reserved:
                self.budget.release(tenant, reserved)
            refusal = None  # it and this frame, which is in its traceback, would refer to each other
        if message is grpc.aio.EOF:
            raise InvalidArgument("the call has no message", code="bad_message")
        received: bytes = message
        return received

    def parse(self, message: bytes) -> Any:
        """Parses the message; raises InvalidArgument if it is malformed or has too many fields."""
        if self._descriptor is not None and has_more_fields(message, self._descriptor, self._limits.max_fields):
            reason = f"the message has more than {self._limits.max_fields} fields"
            raise InvalidArgument(reason, code="message_too_complex")
        if self._deserialize is None:
            return message
        try:
            return self._deserialize(message)
        except DecodeError as error:
            raise InvalidArgument("the message cannot be parsed", code="bad_message") from error


def _gated(method: Method, receive: _Receive) -> Method:
    async def call(requests: Any, context: Context) -> Any:
        await receive.admit(context)
        return await method(requests, context)

    return call


def _gated_stream(method: Method, receive: _Receive) -> Method:
    async def call(requests: Any, context: Context) -> AsyncIterator[Any]:
        await receive.admit(context)
        responses = method(requests, context)
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    return call


def _received(method: Method, receive: _Receive) -> Method:
    async def call(_: Any, context: Context) -> Any:
        tenant = await receive.admit(context)
        message = await receive.message(context, tenant)
        with receive.budget.reserved(tenant, len(message)):
            return await method(receive.parse(message), context)

    return call


def _received_stream(method: Method, receive: _Receive) -> Method:
    if not isasyncgenfunction(method):  # health's Watch is a coroutine that writes to the context itself

        async def write(_: Any, context: Context) -> None:
            await method(receive.parse(await receive.message(context, "")), context)

        return write

    async def call(_: Any, context: Context) -> AsyncIterator[Any]:
        tenant = await receive.admit(context)
        message = await receive.message(context, tenant)
        with receive.budget.reserved(tenant, len(message)):
            responses = method(receive.parse(message), context)
            try:
                async for response in responses:
                    yield response
            finally:
                await responses.aclose()

    return call


def has_more_fields(message: bytes, descriptor: Any, limit: int) -> bool:
    """Returns whether a serialized message and the messages in it have more than `limit` fields together.

    It stops at the limit, and at what is malformed, which the parser reports. A field has two bytes or more, so a short
    message is not looked at.
    """
    if len(message) <= 2 * limit:
        return False
    view = memoryview(message)
    waiting = [(0, len(message), descriptor)]
    count = 0
    while waiting:
        at, end, of = waiting.pop()
        nested = {field.number: field.message_type for field in of.fields if field.message_type is not None}
        while at < end:
            count += 1
            if count > limit:
                return True
            key, at = _varint(view, at, end)
            kind = key & 7
            if kind == VARINT:
                _, at = _varint(view, at, end)
            elif kind == LENGTH_DELIMITED:
                length, at = _varint(view, at, end)
                if (key >> 3) in nested:
                    waiting.append((at, min(at + length, end), nested[key >> 3]))
                at += length
            elif kind in (FIXED32, FIXED64):
                at += 4 if kind == FIXED32 else 8
            else:
                break
    return False


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """Reads protobuf's number at `at`; returns it and where it ends, or `end` if it is cut off or too long."""
    value = shift = 0
    while at < end and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, end
