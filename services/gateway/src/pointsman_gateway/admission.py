"""Admission: a bound on how many requests are answered at once; the rest are told early to come again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pointsman_servicekit.errors import InvalidArgument, Unavailable
from prometheus_client import Gauge

from pointsman_gateway.domain import Request

ROLES = ("system", "user", "assistant", "tool")


class Admission:
    """Request in, a place in the house or an error out."""

    def __init__(self, max_in_flight: int, in_flight: Gauge) -> None:
        self._free = max_in_flight
        self._most = max_in_flight
        self._gauge = in_flight
        self.closing = False

    @asynccontextmanager
    async def admitted(self, request: Request) -> AsyncIterator[None]:
        """Raises InvalidArgument or Unavailable at once; a place is given back at the end of the block."""
        _check(request)
        if self.closing:
            raise Unavailable("the gateway is shutting down", code="shutting_down", retry_after=1.0)
        if self._free == 0:
            raise Unavailable(f"{self._most} requests are being answered already", code="overloaded", retry_after=1.0)
        self._free -= 1
        self._gauge.inc()
        try:
            yield
        finally:
            self._free += 1
            self._gauge.dec()


def _check(request: Request) -> None:
    if not request.model:
        raise InvalidArgument("'model' is empty; 'auto' lets the gateway choose", code="missing_model", param="model")
    if not request.messages:
        raise InvalidArgument("'messages' is empty; send at least one", code="empty_messages", param="messages")
    for number, message in enumerate(request.messages):
        if message.role not in ROLES:
            known = ", ".join(ROLES)
            raise InvalidArgument(
                f"messages[{number}].role is '{message.role[:50]}'; known: {known}",
                code="bad_role",
                param=f"messages[{number}].role",
            )
    if len(request.metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in request.metadata.items()):
        raise InvalidArgument(
            "'metadata' may have 16 entries, with keys of 64 and values of 512 characters",
            code="bad_parameter",
            param="metadata",
        )
    if len(request.user) > 512:
        raise InvalidArgument("'user' may have 512 characters", code="bad_parameter", param="user")
    if not request.query.strip():
        raise InvalidArgument("the last user message is empty", code="empty_message", param="messages")
