"""A span of each HTTP request, below the caller's where it sends one."""

from collections.abc import Collection

from opentelemetry.trace import Span
from pointsman_servicekit.logs import request_id
from pointsman_servicekit.tracing.spans import Spans, record_error_code, record_exception
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNTOLD = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds, and about nobody's request."""


class TracedHttp:
    """The outermost ASGI application."""

    def __init__(self, app: ASGIApp, spans: Spans, routes: Collection[str]) -> None:
        """`routes` are the paths that may be told: any other is the client's own words."""
        self._app = app
        self._spans = spans
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTOLD:
            await self._app(scope, receive, send)
            return
        span = self._begin(scope)

        async def send_and_tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                _tell(span, message)
            await send(message)

        try:
            await self._app(scope, receive, send_and_tell)
        except BaseException as error:
            record_exception(span, error)
            raise
        finally:
            span.end()

    def _begin(self, scope: Scope) -> Span:
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, route = scope["method"], scope["path"] if scope["path"] in self._routes else ""
        told = {"http.request.method": method, **({"http.route": route} if route else {})}
        return self._spans.serve(f"{method} {route}".rstrip(), sent, told)


def _tell(span: Span, message: Message) -> None:
    status: int = message["status"]
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("pointsman.request_id", request_id.get())
    if status >= 500:
        record_error_code(span, str(status))
