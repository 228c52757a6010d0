"""Errors in the format of OpenAI's APIs."""

from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.codec.headers import Headers

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    429: "rate_limit_error",
}
"""OpenAI's error types by HTTP status; all others are "server_error"."""


@dataclass(frozen=True, slots=True)
class OpenAIErrors:
    """OpenAI's errors; implements `ErrorFormat`."""

    conversation: str = "messages"
    """The name of the endpoint's field that holds the conversation, such as "input". It is reported as the `param` of
    errors whose `param` is "messages"."""
    schema: str = "Error"

    def encode(self, error: PointsmanError) -> tuple[int, dict[str, Any]]:
        body = error_body(error)
        if error.param == "messages":
            body["error"]["param"] = self.conversation
        return error.http_status, body

    def encode_rejection(self, status: int, code: str, message: str) -> dict[str, Any]:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def id_headers(self, id: bytes) -> Headers:
        return [(b"x-request-id", id)]


OPENAI_ERRORS = OpenAIErrors()


def error_body(error: PointsmanError) -> dict[str, Any]:
    """Returns the body of a response, or the data of a stream's event, that reports an error: {"error": {"message",
    "type", "param", "code"}}.
    """
    return {
        "error": {
            "message": error.message,
            "type": ERROR_TYPES.get(error.http_status, "server_error"),
            "param": error.param,
            "code": error.code,
        }
    }
