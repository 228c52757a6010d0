"""Builds the gateway's ASGI application: its routes, its error handlers, and the applications wrapped around
FastAPI.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pointsman_gateway.domain import Operation
from pointsman_gateway.http import routes
from pointsman_gateway.http.admin import add_admin_api
from pointsman_gateway.http.asgi_answer import ClientDisconnected
from pointsman_gateway.http.asgi_app import AZURE_PREFIX, GatewayApp
from pointsman_gateway.http.console.api import add_console
from pointsman_gateway.http.conversation_route import ConversationRoute
from pointsman_gateway.http.dependencies import HAS_RECEIPT, HttpDependencies, caller_in, dependencies_of
from pointsman_gateway.http.description import add_description
from pointsman_gateway.http.dialects.openai.embeddings import EmbeddingRoute, embed
from pointsman_gateway.http.dialects.registry import DIALECTS, dialect_of
from pointsman_gateway.http.encoding import error_headers
from pointsman_gateway.http.fields import invalid_field
from pointsman_gateway.http.json_route import JsonRoute
from pointsman_gateway.http.openapi import describe_answers
from pointsman_gateway.pipeline.public_error import to_public_error

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans


METERED_ROUTES: dict[str, Operation] = {
    **{route.path: route.operation for dialect in DIALECTS for route in dialect.routes},
    "/v1/embeddings": "embeddings",
    "/v1/route": "route",
}
"""The routes whose requests get a receipt, with the receipt's operation."""

CORS_PREFIXES = ("/v1/", AZURE_PREFIX, *[route.path for dialect in DIALECTS for route in dialect.routes])
CORS_MAX_AGE_SECONDS = 600
"""Seconds for which a browser caches the answer to a preflight request; Chromium's maximum is two hours."""


def build_app(dependencies: HttpDependencies, spans: "Spans | None" = None) -> ASGIApp:
    """Builds the complete ASGI application. With `spans`, it records a trace span for each HTTP request."""

    def on_rejected(scope: Scope, error: PointsmanError) -> None:
        record_rejection(dependencies, scope, error)

    api = build_api(dependencies)
    asgi_routes = {
        ("POST", dialect.path): ConversationRoute(dependencies, dialect, dialect.direct)
        for dialect in DIALECTS
        if dialect.direct
    }
    app: ASGIApp = GatewayApp(api, dependencies.tenancy, dependencies.budget, asgi_routes, on_rejected)
    if dependencies.cors_origins:
        app = CorsApp(app, dependencies.cors_origins)
    if spans is None:
        return app
    from pointsman_gateway.http.tracing import TracingApp  # imports OpenTelemetry

    return TracingApp(app, spans, [route.path for route in api.routes if isinstance(route, Route)])


class CorsApp:
    """Wraps an ASGI application, and adds CORS: web pages of the given origins ("*": all) may call the APIs below
    `CORS_PREFIXES`, but neither the console nor the admin API.

    A browser's preflight request is answered without an API key. Cookies are never allowed: a page has to send a
    key.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("*",),
            allow_credentials=False,
            max_age=CORS_MAX_AGE_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_api = scope["type"] == "http" and scope["path"].startswith(CORS_PREFIXES)
        await (self._cors if is_api else self._app)(scope, receive, send)


def build_api(dependencies: HttpDependencies) -> FastAPI:
    """Builds the FastAPI application without the ASGI applications wrapped around it; its `openapi()` returns the
    OpenAPI document.

    It has no console routes if the console is off, and no routes for metrics and schema if they have a port of their
    own.
    """
    # FastAPI's own pages would run scripts of another site on the console's origin.
    app = FastAPI(
        title="Pointsman",
        summary="Prompt it, look it up, or hand it to an adapter.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.router.route_class = JsonRoute
    # Handlers are plain functions that find the dependencies here: FastAPI caches handlers for ever, and a cached bound
    # method would keep its object alive.
    app.state.dependencies = dependencies
    for dialect in DIALECTS:
        for route in dialect.routes:
            app.post(route.path)(route.handler)
    app.router.add_api_route("/v1/embeddings", embed, methods=["POST"], route_class_override=EmbeddingRoute)
    app.get("/v1/models")(routes.list_models)
    app.get("/v1/models/{name:path}")(routes.find_model)
    app.post("/v1/route")(routes.route)
    app.post("/v1/feedback")(routes.feedback)
    app.post("/v1/evaluations")(routes.evaluations)
    app.get("/v1/tasks")(routes.list_tasks)
    app.get("/v1/configuration")(routes.configuration)
    app.head("/", include_in_schema=False)(routes.live)  # with which some clients test the base URL
    app.get("/healthz")(routes.live)
    app.get("/readyz")(routes.ready)
    if not dependencies.has_metrics_port:
        add_description(app, lambda: app.openapi())
    add_admin_api(app)
    if dependencies.console is not None:
        add_console(app)
    add_error_handlers(app)
    describe_answers(app)
    return app


def build_metrics_app(dependencies: HttpDependencies) -> ASGIApp:
    """Builds an application with metrics, the OpenAPI schema and health checks only, for a port of its own; it needs no
    key.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.dependencies = dependencies
    app.get("/healthz")(routes.live)
    app.get("/readyz")(routes.ready)
    add_description(app, build_api(dependencies).openapi)
    return app


def add_error_handlers(app: FastAPI) -> None:
    app.exception_handler(PointsmanError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(ClientDisconnected)(_on_disconnected)
    app.exception_handler(Exception)(_on_internal)


def record_rejection(dependencies: HttpDependencies, scope: Scope, error: PointsmanError | None) -> None:
    """Logs the receipt of a request that was rejected before the pipeline got it, for example for a missing key or an
    invalid body.

    Does nothing for requests other than a POST to one of `METERED_ROUTES`, and if the pipeline writes the receipt.
    `error` is the error that the client gets; None if the client has disconnected.
    """
    operation = METERED_ROUTES.get(scope["path"])
    if operation is not None and scope["method"] == "POST" and HAS_RECEIPT not in scope:
        dependencies.pipeline.record_rejection(operation, error, caller=caller_in(scope))


async def _on_error(request: Request, error: Any) -> Response:
    return _reject(request, error)


async def _on_internal(request: Request, error: Any) -> Response:
    return _reject(request, to_public_error(error))


async def _on_invalid(request: Request, error: Any) -> Response:
    item = error.errors()[0]
    if isinstance(item["input"], bytes):  # FastAPI has not read the body as JSON
        return _reject(request, _bad_content_type(request))
    return _reject(request, invalid_field({**item, "loc": item["loc"][1:]}))  # without "body"


async def _on_http_error(request: Request, error: Any) -> Response:
    cause = error.__cause__
    if isinstance(cause, PointsmanError):  # FastAPI wraps errors that occur while it reads the body
        return _reject(request, cause)
    if isinstance(cause, ClientDisconnect):
        return await _on_disconnected(request, cause)
    if isinstance(cause, UnicodeDecodeError):
        return _reject(request, InvalidArgument("the body is not UTF-8", code="bad_json"))
    family = NotFound if error.status_code == 404 else InvalidArgument
    advice = _route_advice(request.scope["path"]) if error.status_code == 404 else ""
    rejection = family(f"{request.method} {request.url.path}: {error.detail}{advice}", code="unknown_route")
    response = _reject(request, rejection)
    response.status_code = error.status_code
    return response


def _route_advice(path: str) -> str:
    """Returns advice for an unknown path: the route with one `/v1` more or less, or where the routes are listed."""
    meant = path.removeprefix("/v1") if path.startswith("/v1/v1/") else "/v1" + path
    if meant in METERED_ROUTES or meant == "/v1/models":
        return f"; did you mean {meant}? Check the client's base URL"
    return "; GET /openapi.json lists the routes"


async def _on_disconnected(request: Request, error: Any) -> Response:
    record_rejection(dependencies_of(request), request.scope, None)
    return Response(status_code=499)


def _reject(request: Request, error: PointsmanError) -> Response:
    record_rejection(dependencies_of(request), request.scope, error)
    status, body = dialect_of(request.scope).error_format.encode(error)
    return JSONResponse(body, status, error_headers(error))


def _bad_content_type(request: Request) -> InvalidArgument:
    kind = request.headers.get("content-type", "")[:100]
    problem = f"content-type is {kind!r}" if kind else "content-type is missing"
    return InvalidArgument(f"{problem}; it must be application/json", code="bad_content_type", param="content-type")
