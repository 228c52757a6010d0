"""Everything that goes wrong behind an HTTP route, in the shape of OpenAI's errors."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from pointsman_gateway.domain import Operation
from pointsman_gateway.http.asgi_answer import ClientGone
from pointsman_gateway.http.dependencies import HttpDoor, door_of
from pointsman_gateway.http.openai import chat_encoder as answers
from pointsman_gateway.pipeline.run import to_public_error

METERED: dict[str, Operation] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/responses": "chat",
    "/v1/embeddings": "embeddings",
    "/v1/route": "route",
}
"""Routes whose requests each leave a receipt, and what is wanted of them."""

IN_THE_LINE = "pointsman.in_the_line"
"""In the ASGI scope of a request that has come to the line, which leaves the receipt itself."""


def add_error_handlers(app: FastAPI) -> None:
    app.exception_handler(PointsmanError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(ClientGone)(_on_client_gone)
    app.exception_handler(Exception)(_on_internal)


MAX_LOCATION = 200
"""Characters of a wrong field's location that an error repeats: names in a body may be as long as the body."""


def invalid_body(item: Any) -> InvalidArgument:
    """Pydantic's error `item` as the client gets it."""
    where = ".".join(str(part)[:MAX_LOCATION] for part in item["loc"])[:MAX_LOCATION]
    where = where.encode("utf-8", "backslashreplace").decode()
    if item["type"] == "json_invalid":
        return InvalidArgument(f"the body is not JSON: {item['ctx']['error']}", code="bad_json")
    message = f"'{where}': {item['msg']}" if where else item["msg"]
    return InvalidArgument(message, code="bad_parameter", param=where or None)


def _not_said_to_be_json(request: Request) -> InvalidArgument:
    kind = request.headers.get("content-type", "")[:100]
    told = f"content-type is {kind!r}" if kind else "content-type is missing"
    return InvalidArgument(f"{told}; it must be application/json", code="bad_content_type", param="content-type")


def _error_response(error: PointsmanError) -> Response:
    return JSONResponse(answers.error_body(error), error.http_status, answers.error_headers(error))


async def _on_error(request: Request, error: Any) -> Response:
    return _turned_away(request, error)


async def _on_internal(request: Request, error: Any) -> Response:
    return _turned_away(request, to_public_error(error))


async def _on_invalid(request: Request, error: Any) -> Response:
    item = error.errors()[0]
    if isinstance(item["input"], bytes):  # FastAPI has not read it as JSON
        return _turned_away(request, _not_said_to_be_json(request))
    return _turned_away(request, invalid_body({**item, "loc": item["loc"][1:]}))  # without "body"


async def _on_http_error(request: Request, error: Any) -> Response:
    cause = error.__cause__
    if isinstance(cause, PointsmanError):  # FastAPI wraps what reading the body raised
        return _turned_away(request, cause)
    if isinstance(cause, ClientDisconnect):
        return await _on_client_gone(request, cause)
    if isinstance(cause, UnicodeDecodeError):
        return _turned_away(request, InvalidArgument("the body is not UTF-8", code="bad_json"))
    family = NotFound if error.status_code == 404 else InvalidArgument
    refusal = family(f"{request.method} {request.url.path}: {error.detail}", code="unknown_route")
    response = _turned_away(request, refusal)
    response.status_code = error.status_code
    return response


async def _on_client_gone(request: Request, error: Any) -> Response:
    leave_receipt_of(door_of(request), request.scope, None)
    return Response(status_code=499)


def _turned_away(request: Request, error: PointsmanError) -> Response:
    leave_receipt_of(door_of(request), request.scope, error)
    return _error_response(error)


def leave_receipt_of(door: HttpDoor, scope: Scope, error: PointsmanError | None) -> None:
    """Of a request for which a receipt is due, where the line has not left one."""
    operation = METERED.get(scope["path"])
    if operation is not None and scope["method"] == "POST" and IN_THE_LINE not in scope:
        door.pipeline.turned_away(operation, error)
