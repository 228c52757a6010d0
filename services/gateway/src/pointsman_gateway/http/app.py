"""The HTTP door: OpenAI's API in front of the pipeline."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pointsman_servicekit.errors import PointsmanError
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from pointsman_gateway.http.asgi_app import Edge
from pointsman_gateway.http.console.api import add_console
from pointsman_gateway.http.dependencies import HttpDoor, caller_of_request, deadline_of, door_of, respond
from pointsman_gateway.http.errors import IN_THE_LINE, add_error_handlers, leave_receipt_of
from pointsman_gateway.http.openai import chat_encoder as answers
from pointsman_gateway.http.openai.chat import ChatBody, ChatRoute, RouteBody, encoder_of
from pointsman_gateway.http.openai.completions import complete
from pointsman_gateway.http.openai.embeddings import embed
from pointsman_gateway.http.openai.responses import create_response
from pointsman_gateway.http.openapi import describe_answers
from pointsman_gateway.http.routes import FeedbackBody, feedback_answer, find_model, list_models, list_tasks

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans


async def chat(body: ChatBody, request: Request) -> Response:
    """Answers one conversation."""
    # The edge leads straight to the `ChatRoute`, which does the same with less; this is the route as FastAPI knows it.
    return await respond(request, body.to_request(deadline_of(request)), encoder_of(body), bool(body.stream))


async def route(body: RouteBody, request: Request) -> Response:
    """The decision alone; nothing is generated, nothing is charged."""
    door = door_of(request)
    asked = body.to_request(deadline_of(request), caller_of_request(request))
    request.scope[IN_THE_LINE] = True
    routed = await door.pipeline.decide(asked, body.include_prompt)
    costs = door.pipeline.costs(asked, routed.decision)
    return JSONResponse(answers.decision_body(routed.decision, costs, routed.prompt))


async def feedback(body: FeedbackBody, request: Request) -> Response:
    """Takes what someone says of an answer; 202 where it waits on disk for the journal."""
    caller = caller_of_request(request)
    return feedback_answer(await door_of(request).feedback.take(body.to_feedback(caller)))


async def configuration(request: Request) -> dict[str, Any]:
    """Which configuration serves, and why what is in the folder now does not."""
    return asdict(door_of(request).configuration.status)


async def live() -> PlainTextResponse:
    """The process works."""
    return PlainTextResponse("ok\n")


async def ready(request: Request) -> PlainTextResponse:
    """Some engine can answer."""
    door = door_of(request)
    if not door.pipeline.admission.is_ready:
        return PlainTextResponse("shutting down\n", status_code=503, headers={"retry-after": "5"})
    if door.configuration.current.engines.any_ready:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("no engine is ready\n", status_code=503, headers={"retry-after": "5"})


async def metrics(request: Request) -> Response:
    """Prometheus's text format; OpenMetrics, which has exemplars, where the scraper asks for it."""
    write, content_type = choose_encoder(request.headers.get("accept", ""))
    # Not as `media_type`: Starlette would add a charset to a type that has one.
    return Response(write(door_of(request).registry), headers={"content-type": content_type})


def build_app(door: HttpDoor, spans: "Spans | None" = None) -> ASGIApp:
    """All routes, the hot one past FastAPI; `spans`: where requests are to be traced."""

    def turned_away(scope: Scope, error: PointsmanError) -> None:
        leave_receipt_of(door, scope, error)

    api = build_api(door)
    edge = Edge(api, door.tenancy, {("POST", "/v1/chat/completions"): ChatRoute(door)}, turned_away)
    if spans is None:
        return edge
    from pointsman_gateway.http.tracing import TracedHttp  # imports OpenTelemetry

    return TracedHttp(edge, spans, [route.path for route in api.routes if isinstance(route, Route)])


def build_api(door: HttpDoor) -> FastAPI:
    """All routes as FastAPI serves and documents them, with one error handler."""
    app = FastAPI(title="Pointsman", summary="Prompt it, look it up, or hand it to an adapter.", docs_url="/docs")
    # The handlers are plain functions that find their door here: FastAPI keeps what it has seen of a handler for ever,
    # and a bound method would keep its whole house.
    app.state.door = door
    app.post("/v1/chat/completions")(chat)
    add_openai_routes(app)
    app.post("/v1/route")(route)
    app.post("/v1/feedback")(feedback)
    app.get("/v1/tasks")(list_tasks)
    app.get("/v1/configuration")(configuration)
    app.get("/healthz")(live)
    app.get("/readyz")(ready)
    app.get("/metrics")(metrics)
    if door.console is not None:
        add_console(app)
    add_error_handlers(app)
    return app


def add_openai_routes(app: FastAPI) -> None:
    app.post("/v1/completions")(complete)
    app.post("/v1/responses")(create_response)
    app.post("/v1/embeddings")(embed)
    app.get("/v1/models")(list_models)
    app.get("/v1/models/{name:path}")(find_model)
    describe_answers(app)
