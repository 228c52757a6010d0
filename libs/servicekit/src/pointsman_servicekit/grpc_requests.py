"""Authenticates the caller of a gRPC method before its request message is received, and limits the message.

grpc.aio calls the handler of a unary method only when it has received and parsed the message, so that a caller without
a key could make it parse megabytes. `RequestReceiver` therefore registers each such method as one that receives a
stream of messages, and reads the single message itself, in this order: a `Gate` authenticates the caller by the call's
metadata; the message is received within a time limit; its fields are counted; it is parsed.
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
"""Seconds after which an incomplete message counts as slow.

gRPC does not report how much of a message has arrived, so for a slow message the size of the largest allowed message is
reserved in the `BufferedBytesBudget`.
"""

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


class Gate(Protocol):
    """Interface for authenticating a gRPC call before its message is received.

    `TokenGate` implements it, and the gateway's servicer has its own implementation.
    """

    async def admit(self, method: str, context: Context) -> str:
        """Returns whose share of memory the message counts towards: the name of the caller's tenant, or of the calling
        service.

        `method` is the whole path ("/pointsman.v1.Gateway/Route"). If the caller may not make the call, raises a
        PointsmanError, such as Unauthenticated or PermissionDenied, or aborts the call.
        """
        ...


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """Limits of a gRPC request message: its bytes, its fields, and the seconds until it is complete."""

    max_bytes: int
    max_fields: int
    """Maximum number of fields of a message, including all messages in it.

    A message with more fields is rejected before it is parsed, since 8 MiB of empty messages become 200 MiB of objects.
    """
    timeout: float
    """Time limit in seconds from the call's authentication until its message is complete; the caller's own deadline may
    be earlier."""


class RequestReceiver(HandlerInterceptor):
    """A server interceptor that authenticates each call, and then receives its message within limits.

    If there is a `gate`, it authenticates calls to services whose name begins with "pointsman."; calls to other
    services, such as health, need no key. The limits apply to methods with one request message. Of a call with a stream
    of requests, only the caller is authenticated. This must be the innermost interceptor.
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
    """Authenticates the calls of one method, and receives and parses their messages."""

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
        """Returns what `Gate.admit` returns, or "" without a gate; raises what `Gate.admit` raises."""
        return "" if self._gate is None else await self._gate.admit(self._method, context)

    async def message(self, context: Context, tenant: str) -> bytes:
        """Receives the message's bytes; `tenant` is what `admit` returned.

        Raises Unavailable ("overloaded") if the message is slow and its memory cannot be reserved, DeadlineExceeded if
        the message does not arrive within the limit, and InvalidArgument if the call ends without a message.
        """
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
        """Parses a message; raises InvalidArgument if it is malformed or has too many fields."""
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
    """Returns whether a serialized message of the type `descriptor` has more than `limit` fields, nested ones included.

    A field takes at least two bytes, so the answer for a short message is False without counting. Malformed parts are
    not counted: the parser reports them.
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
    """Reads the varint at `at`; returns its value and its end, or (0, `end`) if it is cut off or too long."""
    value = shift = 0
    while at < end and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, end
