"""Calls a remote embedding or reranking model over HTTP: sends requests, converts errors, and reads the reported
tokens.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, Unavailable

from pointsman_gateway.extensions.http_poster import HttpPoster, HttpReply, HttpUnreachable
from pointsman_gateway.model_calls.call import Charge
from pointsman_gateway.redaction import MAX_PARAM_CHARACTERS, shown_error

OVERLOADED_STATUSES = (429, 529)
"""HTTP statuses that mean an overloaded endpoint; some providers send 529."""


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """The address and the names by which one remote embedding or reranking model is called."""

    noun: str
    """The kind of model, for messages, such as "embedding model"."""
    name: str
    """The model's name in the configuration."""
    url: str
    """The full URL to which requests are posted."""
    model: str
    """The model's name at the endpoint."""
    auth_header: str = ""
    """The header line with the API key; empty if there is no key."""


class EndpointClient:
    def __init__(self, endpoint: ModelEndpoint, http: HttpPoster) -> None:
        self.endpoint = endpoint
        self._http = http

    async def post(
        self,
        body: Mapping[str, Any],
        deadline: float,
        max_bytes: int,
        reserve: Callable[[int], None] | None = None,
    ) -> HttpReply:
        """Sends `body`, to which the model's name is added, to the endpoint, and returns its response, whose status is
        200.

        `deadline`, `max_bytes` (of the response) and `reserve` are passed to `HttpPoster.post`. Raises InvalidArgument
        if the endpoint rejects the request, NotFound if it lacks the model, Unavailable if it fails, and the errors of
        `reserve`.
        """
        endpoint = self.endpoint
        content = msgspec.json.encode({**body, "model": endpoint.model})
        try:
            reply = await self._http.post(endpoint.url, endpoint.auth_header, content, deadline, max_bytes, reserve)
        except HttpUnreachable as error:
            raise self.failed(str(error)) from error
        if reply.status != 200:
            raise self._refused(reply)
        return reply

    def failed(self, reason: str) -> Unavailable:
        return Unavailable(
            f"{self.endpoint.noun} '{self.endpoint.name}': its engine failed: {shown_error(reason)}",
            code="engine_unavailable",
            retry_after=1.0,
        )

    def _refused(self, reply: HttpReply) -> PointsmanError:
        body = b"".join(reply.pieces)[:65536]
        message, param = shown_text(body, 500), None
        with suppress(
            ValueError, LookupError, TypeError, AttributeError, RecursionError
        ):  # not in OpenAI's error format
            error = json.loads(body)["error"]
            message, param = str(error["message"]), error.get("param")
        message = shown_error(message)  # it may quote the API key
        if reply.status in (400, 413, 422):
            param = shown_error(param, MAX_PARAM_CHARACTERS) if isinstance(param, str) else None
            return InvalidArgument(message, code="engine_refused", param=param)
        text = f"{self.endpoint.noun} '{self.endpoint.name}': its engine answered {reply.status}: {message}"
        if reply.status == 404:
            missing = NotFound(text, code="model_not_served", param="model")
            missing.fault = "engine"
            return missing
        return Unavailable(
            text,
            code="engine_overloaded" if reply.status in OVERLOADED_STATUSES else "engine_error",
            retry_after=reply.retry_after or 1.0,
        )


def charge_tokens(usage: Mapping[str, Any], estimate: Charge, most: int) -> Charge:
    """Returns a copy of `estimate` with the number of tokens that an endpoint reports in `usage`; `estimate` itself if
    it reports none.

    A number above `most`, the highest possible one, is cut to `most`. If the report is not a valid number, the estimate
    is kept. In both cases the charge has a note.
    """
    counted = usage.get("total_tokens") or usage.get("prompt_tokens")
    if counted is None:
        return estimate
    if type(counted) is int and 0 <= counted <= most:
        return Charge(counted, estimate.searches)
    charged = most if type(counted) is int and counted > most else estimate.tokens
    note = f"usage capped: the engine reported {repr(counted)[:40]} tokens, 0 to {most} are possible"
    return Charge(charged, estimate.searches, note)


def shown_text(start: bytes, max_characters: int) -> str:
    """Returns the text of a response for an error message: at most `max_characters`, and without secrets."""
    return shown_error(start.decode("utf-8", "replace"), max_characters)
