"""Errors in the format of Anthropic's APIs."""

from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.codec.headers import Headers

ERRORS = {
    400: (400, "invalid_request_error"),
    401: (401, "authentication_error"),
    403: (403, "permission_error"),
    404: (404, "not_found_error"),
    409: (409, "invalid_request_error"),
    429: (429, "rate_limit_error"),
    500: (500, "api_error"),
    503: (529, "overloaded_error"),
    504: (504, "timeout_error"),
}
"""From the HTTP status of a PointsmanError to the status and the error type of Anthropic's APIs."""

THREAD_UNSUPPORTED = "thread_unsupported_request"
"""Anthropic's code for a rejected `thread`; its clients then send the whole conversation without that field."""


@dataclass(frozen=True, slots=True)
class AnthropicErrors:
    """Anthropic's errors, with `code` and `param` in addition; implements `ErrorFormat`."""

    schema: str = "AnthropicError"

    def encode(self, error: PointsmanError) -> tuple[int, dict[str, Any]]:
        """Returns the HTTP status and the JSON body for an error.

        The status is 413 for the code "body_too_large", and otherwise follows from the error's class. An error with
        the code `THREAD_UNSUPPORTED` has `details` in addition, by which clients recognize it.
        """
        status, kind = ERRORS.get(error.http_status, ERRORS[500])
        if error.code == "body_too_large":
            status, kind = 413, "request_too_large"
        body: dict[str, Any] = {"type": kind, "message": error.message, "code": error.code, "param": error.param}
        if error.code == THREAD_UNSUPPORTED:
            body["details"] = {"error_code": error.code, "unsupported": [error.param]}
        return status, {"type": "error", "error": body, "request_id": request_id.get()}

    def encode_rejection(self, status: int, code: str, message: str) -> dict[str, Any]:
        kind = "overloaded_error" if status >= 500 else "invalid_request_error"
        return {"type": "error", "error": {"message": message, "type": kind, "param": None, "code": code}}

    def id_headers(self, id: bytes) -> Headers:
        """Returns two headers with the request's id: the gateway's x-request-id, and Anthropic's request-id."""
        return [(b"x-request-id", id), (b"request-id", id)]


ANTHROPIC_ERRORS = AnthropicErrors()
