"""The HTTP door: OpenAI's API in front of the pipeline."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError
from pointsman_servicekit.logs import request_id
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pointsman_gateway.doors import openai_answers as answers
from pointsman_gateway.doors.answering import told
from pointsman_gateway.doors.feedback import FeedbackBody, feedback_answer
from pointsman_gateway.doors.hang_up import ClientGone
from pointsman_gateway.doors.http_door import HttpDoor, deadline_of, door_of, respond
from pointsman_gateway.doors.openai_requests import ChatBody, RouteBody

log = logging.getLogger(__name__)

LONGEST_BODY = 8 * 1024 * 1024


async def chat(body: ChatBody, request: Request) -> Response:
    """Answers one conversation."""
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    return await respond(
        request, body.to_request(deadline_of(request)), answers.ChatEncoder(include_usage), body.stream
    )


async def route(body: RouteBody, request: Request) -> Response:
    """The decision alone; nothing is generated, nothing is charged."""
    door = door_of(request)
    asked = body.to_request(deadline_of(request))
    decision = await door.pipeline.decide(asked)
    prompt = await door.pipeline.prompt(asked, decision) if body.include_prompt else None
    return JSONResponse(answers.decision_body(decision, prompt))


async def feedback(body: FeedbackBody, request: Request) -> Response:
    """Takes what someone says of an answer; 202 where it waits on disk for the journal."""
    return feedback_answer(await door_of(request).feedback.take(body.to_feedback()))


async def list_models(request: Request) -> dict[str, Any]:
    """Everything that `model` may say."""
    names = door_of(request).configuration.current.models.names()
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "pointsman"} for name in names]
    return {"object": "list", "data": data}


async def configuration(request: Request) -> dict[str, Any]:
    """Which configuration serves, and why what is in the folder now does not."""
    return asdict(door_of(request).configuration.status)


async def live() -> PlainTextResponse:
    """The process works."""
    return PlainTextResponse("ok\n")


async def ready(request: Request) -> PlainTextResponse:
    """Some engine can answer."""
    door = door_of(request)
    if door.configuration.current.engines.any_ready and not door.pipeline.admission.closing:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("no engine is ready\n", status_code=503, headers={"retry-after": "5"})


async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    return Response(generate_latest(door_of(request).registry), media_type=CONTENT_TYPE_LATEST)


def build_app(door: HttpDoor) -> ASGIApp:
    """The FastAPI application, with one error handler."""
    app = FastAPI(title="Pointsman", summary="Prompt it, look it up, or hand it to an adapter.", docs_url="/docs")
    # The handlers are plain functions that find their door here: FastAPI keeps what it has seen of a handler for ever,
    # and a bound method would keep its whole house.
    app.state.door = door
    app.post("/v1/chat/completions")(chat)
    app.post("/v1/route")(route)
    app.post("/v1/feedback")(feedback)
    app.get("/v1/models")(list_models)
    app.get("/v1/configuration")(configuration)
    app.get("/healthz")(live)
    app.get("/readyz")(ready)
    app.get("/metrics")(metrics)
    app.exception_handler(PointsmanError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(ClientGone)(_on_client_gone)
    app.exception_handler(Exception)(_on_internal)
    return RequestIds(app)


class RequestIds:
    """Takes or makes a request id for log and answer, and refuses too large bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        name = headers.get(b"x-request-id", b"")[:64].decode("latin-1")
        name = name if name.isascii() and name.isprintable() and name else secrets.token_hex(8)
        token = request_id.set(name)
        begun = complete = False

        async def send_with_id(message: Any) -> None:
            nonlocal begun, complete
            complete = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        try:
            if int(headers.get(b"content-length", b"0")) > LONGEST_BODY:
                raise _too_large()
            await self._app(scope, _bounded(receive), send_with_id)
        except Exception as error:
            if complete:
                return  # Starlette raises again what it has answered
            if begun or not isinstance(error, PointsmanError):
                raise
            await _error_response(error)(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


def _bounded(receive: Receive) -> Receive:
    """For bodies that come in pieces, whose length no header says."""
    read = 0

    async def receive_so_much() -> Any:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > LONGEST_BODY:
            raise _too_large()
        return message

    return receive_so_much


def _too_large() -> InvalidArgument:
    return InvalidArgument(f"the body is over {LONGEST_BODY} bytes", code="body_too_large")


def _error_response(error: PointsmanError) -> Response:
    return JSONResponse(answers.error_body(error), error.http_status, answers.error_headers(error))


async def _on_error(request: Request, error: Any) -> Response:
    return _error_response(error)


async def _on_internal(request: Request, error: Any) -> Response:
    return _error_response(told(error))


async def _on_invalid(request: Request, error: Any) -> Response:
    item = error.errors()[0]
    where = ".".join(str(part) for part in item["loc"][1:]).encode("utf-8", "backslashreplace").decode()
    if item["type"] == "json_invalid":
        return _error_response(InvalidArgument(f"the body is not JSON: {item['ctx']['error']}", code="bad_json"))
    message = f"'{where}': {item['msg']}" if where else item["msg"]
    return _error_response(InvalidArgument(message, code="bad_parameter", param=where or None))


async def _on_http_error(request: Request, error: Any) -> Response:
    if isinstance(error.__cause__, PointsmanError):  # FastAPI wraps what reading the body raised
        return _error_response(error.__cause__)
    if isinstance(error.__cause__, UnicodeDecodeError):
        return _error_response(InvalidArgument("the body is not UTF-8", code="bad_json"))
    told = NotFound if error.status_code == 404 else InvalidArgument
    response = _error_response(told(f"{request.method} {request.url.path}: {error.detail}", code="unknown_route"))
    response.status_code = error.status_code
    return response


async def _on_client_gone(request: Request, error: Any) -> Response:
    return Response(status_code=499)
