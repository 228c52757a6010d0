"""Everything that goes wrong behind an HTTP route, in the shape of OpenAI's errors."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pointsman_gateway.doors import openai_answers as answers
from pointsman_gateway.doors.answering import told
from pointsman_gateway.doors.hang_up import ClientGone


def add_error_handlers(app: FastAPI) -> None:
    app.exception_handler(PointsmanError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(ClientGone)(_on_client_gone)
    app.exception_handler(Exception)(_on_internal)


def invalid_body(item: Any) -> InvalidArgument:
    """The first of pydantic's complaints, as the client is told it."""
    where = ".".join(str(part) for part in item["loc"]).encode("utf-8", "backslashreplace").decode()
    if item["type"] == "json_invalid":
        return InvalidArgument(f"the body is not JSON: {item['ctx']['error']}", code="bad_json")
    message = f"'{where}': {item['msg']}" if where else item["msg"]
    return InvalidArgument(message, code="bad_parameter", param=where or None)


def _error_response(error: PointsmanError) -> Response:
    return JSONResponse(answers.error_body(error), error.http_status, answers.error_headers(error))


async def _on_error(request: Request, error: Any) -> Response:
    return _error_response(error)


async def _on_internal(request: Request, error: Any) -> Response:
    return _error_response(told(error))


async def _on_invalid(request: Request, error: Any) -> Response:
    item = error.errors()[0]
    return _error_response(invalid_body({**item, "loc": item["loc"][1:]}))  # without "body"


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
