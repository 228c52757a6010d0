"""The parts that all responses share: the protocol of encoders, JSON, errors in both dialects, usage and receipts."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import methodcaller
from typing import Any, Protocol

import msgspec
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id
from starlette.types import Scope

from pointsman_gateway.codec.headers import Headers
from pointsman_gateway.domain import Chunk, Chunks, Finished, Receipt, Started, Usage

JSON_TYPE = (b"content-type", b"application/json")

DONE = b"data: [DONE]\n\n"
"""The last event of a stream in most of OpenAI's endpoints."""

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    429: "rate_limit_error",
}
"""OpenAI's error types by HTTP status; all others are "server_error"."""

ANTHROPIC_ERRORS = {
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
"""Anthropic's status and error type by the error's HTTP status."""

MESSAGES_PATH = "/v1/messages"
"""Anthropic's route; errors of all paths that begin like this have Anthropic's format."""

THREAD_UNSUPPORTED = "thread_unsupported_request"
"""Anthropic's code, upon which its clients send the whole conversation."""

MODELS_PATH = "/v1/models"

to_json = msgspec.json.Encoder().encode
_to_latin_1 = methodcaller("encode", "latin-1")


ErrorFormat = Callable[[PointsmanError], tuple[int, dict[str, Any]]]
"""Returns the status and the body of a response that reports an error."""


class AnswerEncoder(Protocol):
    """Encodes one answer for one endpoint, as a stream or as a whole.

    A stream is `encode_start`, `encode_chunks` any number of times, and `encode_end` or `encode_error`. These return
    complete server-sent events; the result may be empty.
    """

    @property
    def error_format(self) -> ErrorFormat:
        """Returns the format of an error that is reported instead of an answer."""
        ...

    def encode_start(self, started: Started) -> bytes:
        """Returns the events that precede the first chunk."""
        ...

    def encode_chunks(self, chunks: Chunks) -> bytes:
        """Returns the events for the chunks of one read from the engine."""
        ...

    def encode_end(self, finished: Finished) -> bytes: ...

    def encode_error(self, error: PointsmanError) -> bytes:
        """Returns the events that end a stream whose answer has failed."""
        ...

    def encode_whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        """Returns the JSON body of an answer that is not streamed."""
        ...


def to_event(data: Any) -> bytes:
    """Encodes JSON as a server-sent event."""
    return b"data: " + to_json(data) + b"\n\n"


def error_body(error: PointsmanError) -> dict[str, Any]:
    """Returns an error in OpenAI's format."""
    return {
        "error": {
            "message": error.message,
            "type": ERROR_TYPES.get(error.http_status, "server_error"),
            "param": error.param,
            "code": error.code,
        }
    }


def openai_error(error: PointsmanError) -> tuple[int, dict[str, Any]]:
    return error.http_status, error_body(error)


def openai_error_of(field: str) -> ErrorFormat:
    """Returns OpenAI's error format for an endpoint that has the conversation in `field` instead of `messages`."""

    def format_error(error: PointsmanError) -> tuple[int, dict[str, Any]]:
        status, body = openai_error(error)
        if error.param == "messages":
            body["error"]["param"] = field
        return status, body

    return format_error


def anthropic_error(error: PointsmanError) -> tuple[int, dict[str, Any]]:
    """Returns status and body of an error in Anthropic's format, with `code` and `param` in addition.

    The only `details` that Anthropic's clients act on are those of a refused `thread`.
    """
    status, kind = ANTHROPIC_ERRORS.get(error.http_status, ANTHROPIC_ERRORS[500])
    if error.code == "body_too_large":
        status, kind = 413, "request_too_large"
    body: dict[str, Any] = {"type": kind, "message": error.message, "code": error.code, "param": error.param}
    if error.code == THREAD_UNSUPPORTED:
        body["details"] = {"error_code": error.code, "unsupported": [error.param]}
    return status, {"type": "error", "error": body, "request_id": request_id.get()}


def is_for_anthropic(scope: Scope) -> bool:
    """Returns whether the response has Anthropic's format. Both APIs have models, so a header says which it is."""
    path: str = scope["path"]
    if path.startswith(MODELS_PATH):
        return any(name == b"anthropic-version" for name, _ in scope["headers"])
    return path.startswith(MESSAGES_PATH)


def error_format_of(scope: Scope) -> ErrorFormat:
    return anthropic_error if is_for_anthropic(scope) else openai_error


def request_id_headers(id: bytes, error_format: ErrorFormat) -> Headers:
    """Returns headers with the request's id, in Anthropic's dialect also by the name that its clients read."""
    headers = [(b"x-request-id", id)]
    if error_format is anthropic_error:
        headers.append((b"request-id", id))
    return headers


def error_headers(error: PointsmanError) -> dict[str, str]:
    # Rounded up, because clients wait exactly this long.
    return {"retry-after": str(max(1, math.ceil(error.retry_after)))} if error.retry_after is not None else {}


def error_response(
    error: PointsmanError, extra_headers: Sequence[tuple[bytes, bytes]], error_format: ErrorFormat
) -> tuple[int, Headers, bytes]:
    """Returns status, headers and body of a response that reports an error."""
    status, body = error_format(error)
    headers = [JSON_TYPE, *extra_headers, *encode_headers(error_headers(error)), *encode_headers(error.limits)]
    return status, headers, to_json(body)


def encode_headers(headers: Mapping[str, str]) -> Headers:
    return list(zip(map(str.encode, headers), map(_to_latin_1, headers.values()), strict=True))


def system_fingerprint(started: Started) -> str:
    """Names the model and configuration behind an answer: with the same ones, `seed` and engine, it is repeatable.

    It stands for engines that report no fingerprint of their own with the answer.
    """
    return _fingerprint(started.decision.generation, started.decision.path.name, started.model)


@lru_cache(maxsize=128)
def _fingerprint(generation: str, path: str, model: str) -> str:
    return "fp_" + hashlib.blake2b(f"{generation}\n{path}\n{model}".encode(), digest_size=5).hexdigest()


def usage_body(usage: Usage) -> dict[str, Any]:
    """Returns OpenAI's `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def receipt_body(receipt: Receipt) -> dict[str, Any]:
    """Returns the `pointsman` object that is added to OpenAI's answers."""
    return {
        "path": receipt.decision.path.name,
        "kind": receipt.decision.path.kind.value,
        "cost_usd": receipt.cost_usd,
        "cost_parts_usd": receipt.cost_parts_usd,
        "seconds": receipt.rounded_seconds,
        "sources": [
            {"document_id": source.document_id, "title": source.title, "score": round(source.score, 4)}
            for source in receipt.sources
        ],
        "escalated_from": receipt.escalated_from,
        "cached": receipt.cached,
        "guardrails": receipt.guardrails,
    }
