"""Builds the ASGI application: the table of routes, the error handlers, and the layers around FastAPI."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pointsman_servicekit.errors import PointsmanError
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pointsman_gateway.http import routes
from pointsman_gateway.http.asgi_app import AZURE_PREFIX, GatewayApp
from pointsman_gateway.http.console import add_console
from pointsman_gateway.http.dependencies import HttpDependencies
from pointsman_gateway.http.errors import add_error_handlers, record_rejection
from pointsman_gateway.http.openai.chat import ChatRoute, chat
from pointsman_gateway.http.openai.completions import complete
from pointsman_gateway.http.openai.embeddings import embed
from pointsman_gateway.http.openai.responses import create_response
from pointsman_gateway.http.openapi import describe_answers

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans


CORS_PREFIXES = ("/v1/", AZURE_PREFIX)
CORS_MAX_AGE_SECONDS = 600
"""For which a browser remembers the answer to a preflight; Chromium caps it at two hours."""


def build_app(dependencies: HttpDependencies, spans: "Spans | None" = None) -> ASGIApp:
    """The complete application; requests are traced if there are `spans`."""

    def on_rejected(scope: Scope, error: PointsmanError) -> None:
        record_rejection(dependencies, scope, error)

    api = build_api(dependencies)
    raw_routes = {("POST", "/v1/chat/completions"): ChatRoute(dependencies)}
    app: ASGIApp = GatewayApp(api, dependencies.tenancy, dependencies.budget, raw_routes, on_rejected)
    if dependencies.cors_origins:
        app = CorsApp(app, dependencies.cors_origins)
    if spans is None:
        return app
    from pointsman_gateway.http.tracing import TracingApp  # imports OpenTelemetry

    return TracingApp(app, spans, [route.path for route in api.routes if isinstance(route, Route)])


class CorsApp:
    """Lets web pages of other origins call the API, but not the console or the routes of operators.

    A preflight is answered before the key is looked up. Credentials that a browser adds by itself (cookies) are never
    allowed: a page has to know a key.
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
    """All routes, as FastAPI serves and documents them."""
    # FastAPI's own pages would run scripts of another site on the console's origin.
    app = FastAPI(
        title="Pointsman",
        summary="Prompt it, look it up, or hand it to an adapter.",
        openapi_url=None if dependencies.has_metrics_port else "/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    # Handlers are plain functions that find the dependencies here: FastAPI caches handlers for ever, and a cached bound
    # method would keep its object alive.
    app.state.dependencies = dependencies
    app.post("/v1/chat/completions")(chat)
    app.post("/v1/completions")(complete)
    app.post("/v1/responses")(create_response)
    app.post("/v1/embeddings")(embed)
    app.get("/v1/models")(routes.list_models)
    app.get("/v1/models/{name:path}")(routes.find_model)
    app.post("/v1/route")(routes.route)
    app.post("/v1/feedback")(routes.feedback)
    app.get("/v1/tasks")(routes.list_tasks)
    app.get("/v1/configuration")(routes.configuration)
    app.head("/", include_in_schema=False)(routes.live)  # with which some clients test the base URL
    app.get("/healthz")(routes.live)
    app.get("/readyz")(routes.ready)
    if not dependencies.has_metrics_port:
        app.get("/metrics")(routes.metrics)
        app.get("/docs", include_in_schema=False)(routes.docs)
    if dependencies.console is not None:
        add_console(app)
    add_error_handlers(app)
    describe_answers(app)
    return app


def build_metrics_app(dependencies: HttpDependencies) -> ASGIApp:
    """Metrics, schema and health checks alone, for a port that clients of the API cannot reach."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.dependencies = dependencies
    app.state.schema = build_api(dependencies).openapi()
    app.get("/healthz")(routes.live)
    app.get("/readyz")(routes.ready)
    app.get("/metrics")(routes.metrics)
    app.get("/docs")(routes.docs)
    app.get("/openapi.json")(routes.schema)
    return app
