"""A span of each call to another service over gRPC, which hears of it."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from pointsman_servicekit.tracing.spans import Spans, headers_of, in_a_trace, tell_error, tell_failure


class TracedCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """Calls that no request has caused, as reports and watches, make no traces of their own."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """Returns when the call has ended: until then there is nothing to be had of it but its end."""
        if not in_a_trace():
            return await continuation(client_call_details, request)
        asked = client_call_details
        method: str | bytes = asked.method
        name = (method.decode() if isinstance(method, bytes) else method).lstrip("/")
        span = self._spans.call(name, {"rpc.system.name": "grpc", "rpc.method": name})
        sent = grpc.aio.Metadata(*(asked.metadata or ()), *headers_of(span).items())
        below = grpc.aio.ClientCallDetails(asked.method, asked.timeout, sent, asked.credentials, asked.wait_for_ready)
        try:
            call = await continuation(below, request)
            status = await call.code()
            span.set_attribute("rpc.response.status_code", status.name)
            if status is not grpc.StatusCode.OK:
                tell_error(span, status.name)
        except BaseException as error:
            tell_failure(span, error)
            raise
        finally:
            span.end()
        return call
