"""Records a span for each HTTP request, as a child of the caller's span if the request names one."""

from collections.abc import Collection

from opentelemetry.trace import Span
from pointsman_servicekit.logs import request_id
from pointsman_servicekit.tracing.spans import Spans, record_error_code, record_exception
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNTRACED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths without spans, which the infrastructure requests every few seconds."""


class TracingApp:
    """An ASGI application that wraps another one and records a span for each HTTP request, except those to
    `UNTRACED_PATHS`.
    """

    def __init__(self, app: ASGIApp, spans: Spans, routes: Collection[str]) -> None:
        """Wraps `app`. `routes` are the paths that spans may name; any other path is arbitrary text from the client."""
        self._app = app
        self._spans = spans
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        span = self._start_span(scope)

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                _record_status(span, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except BaseException as error:
            record_exception(span, error)
            raise
        finally:
            span.end()

    def _start_span(self, scope: Scope) -> Span:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, route = scope["method"], scope["path"] if scope["path"] in self._routes else ""
        attributes = {"http.request.method": method, **({"http.route": route} if route else {})}
        return self._spans.serve(f"{method} {route}".rstrip(), headers, attributes)


def _record_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("pointsman.request_id", request_id.get())
    if status >= 500:
        record_error_code(span, str(status))
