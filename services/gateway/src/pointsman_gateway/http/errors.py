"""Converts every error of a FastAPI route to a response in the format of OpenAI's errors, and writes its receipt."""

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
from pointsman_gateway.http.asgi_answer import ClientDisconnected
from pointsman_gateway.http.dependencies import HttpDependencies, dependencies_of
from pointsman_gateway.http.encoding import error_body, error_headers
from pointsman_gateway.http.openai.fields import invalid_field
from pointsman_gateway.pipeline.run import to_public_error

METERED_ROUTES: dict[str, Operation] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/responses": "chat",
    "/v1/embeddings": "embeddings",
    "/v1/route": "route",
}
"""Routes whose requests leave a receipt, and their operation in it."""

HAS_RECEIPT = "pointsman.has_receipt"
"""Key in the ASGI scope of a request that has reached the pipeline, which writes the receipt itself."""


def add_error_handlers(app: FastAPI) -> None:
    app.exception_handler(PointsmanError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(ClientDisconnected)(_on_disconnected)
    app.exception_handler(Exception)(_on_internal)


def record_rejection(dependencies: HttpDependencies, scope: Scope, error: PointsmanError | None) -> None:
    """Writes the receipt of a rejected request, if its route is metered and the pipeline has not written one.

    Without an error, the client has disconnected.
    """
    operation = METERED_ROUTES.get(scope["path"])
    if operation is not None and scope["method"] == "POST" and HAS_RECEIPT not in scope:
        dependencies.pipeline.turned_away(operation, error)


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
    rejection = family(f"{request.method} {request.url.path}: {error.detail}", code="unknown_route")
    response = _reject(request, rejection)
    response.status_code = error.status_code
    return response


async def _on_disconnected(request: Request, error: Any) -> Response:
    record_rejection(dependencies_of(request), request.scope, None)
    return Response(status_code=499)


def _reject(request: Request, error: PointsmanError) -> Response:
    record_rejection(dependencies_of(request), request.scope, error)
    return JSONResponse(error_body(error), error.http_status, error_headers(error))


def _bad_content_type(request: Request) -> InvalidArgument:
    kind = request.headers.get("content-type", "")[:100]
    problem = f"content-type is {kind!r}" if kind else "content-type is missing"
    return InvalidArgument(f"{problem}; it must be application/json", code="bad_content_type", param="content-type")
