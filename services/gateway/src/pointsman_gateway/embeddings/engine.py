"""An embedding model of an OpenAI-compatible engine; its response is relayed unchanged."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable

from pointsman_gateway.embeddings.stage import EmbeddingRequest, EmbeddingResult
from pointsman_gateway.pipeline.ports import HttpPoster, HttpReply, HttpUnreachable

MAX_REPLY_BYTES = 128 * 1024 * 1024
"""Bytes: 2048 vectors of 3072 numbers in full."""
USAGE_SEARCH_BYTES = 4096
"""Bytes at the start and the end of a response that are searched for its usage."""


@dataclass(frozen=True, slots=True)
class EmbeddingEndpoint:
    """The address of a model."""

    name: str
    """The name in the configuration."""
    url: str
    model: str
    """The engine's name for it."""
    auth_header: str = ""
    """The header line with the API key; empty without a key."""


class RemoteEmbedder:
    """Implements `Embedder` with a remote endpoint."""

    def __init__(self, endpoint: EmbeddingEndpoint, http: HttpPoster) -> None:
        self._endpoint = endpoint
        self._http = http

    async def embed(self, inputs: EmbeddingRequest) -> EmbeddingResult:
        """Raises InvalidArgument if the engine rejects the request, and Unavailable."""
        endpoint = self._endpoint
        if inputs.overflow not in (None, "error"):
            raise InvalidArgument(
                f"'overflow' is for the gateway's own model; '{endpoint.name}' is of another API, which has its own "
                'parameter if it can (vLLM: "truncate_prompt_tokens": -1)',
                code="unsupported_parameter",
                param="overflow",
            )
        body = msgspec.json.encode({**inputs.body, "model": endpoint.model})
        try:
            reply = await self._http.post(
                f"{endpoint.url}/v1/embeddings", endpoint.auth_header, body, inputs.request.deadline, MAX_REPLY_BYTES
            )
        except HttpUnreachable as error:
            raise self._failed(str(error)) from error
        if reply.status != 200:
            raise self._refused(reply)
        return EmbeddingResult(reply.pieces, self._tokens(reply, inputs))

    def _tokens(self, reply: HttpReply, inputs: EmbeddingRequest) -> int:
        """The engine's count of tokens. Only the ends of the response are parsed, because it may have megabytes."""
        head, tail = _ends(reply.pieces)
        if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
            raise self._failed(f"its answer is no JSON object: {head[:100]!r}")
        usage = _usage(tail) or _usage(head) or {}
        counted = usage.get("total_tokens") or usage.get("prompt_tokens")
        # Without a count the estimate is charged.
        return counted if isinstance(counted, int) else inputs.estimated_tokens

    def _refused(self, reply: HttpReply) -> PointsmanError:
        body = b"".join(reply.pieces)[:65536]
        message, param = body[:500].decode("utf-8", "replace"), None
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # not in OpenAI's error format
            error = json.loads(body)["error"]
            message, param = str(error["message"]), error.get("param")
        if reply.status in (400, 413, 422):
            return InvalidArgument(message, code="engine_refused", param=param if isinstance(param, str) else None)
        return Unavailable(
            f"embedding model '{self._endpoint.name}': its engine answered {reply.status}: {message}",
            code="engine_overloaded" if reply.status == 429 else "engine_error",
            retry_after=reply.retry_after or 1.0,
        )

    def _failed(self, reason: str) -> Unavailable:
        return Unavailable(
            f"embedding model '{self._endpoint.name}': its engine failed: {reason}",
            code="engine_unavailable",
            retry_after=1.0,
        )


def _ends(pieces: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """Up to USAGE_SEARCH_BYTES of the start and of the end; they overlap in a short response."""
    head, tail = b"", b""
    for piece in pieces:
        if len(head) >= USAGE_SEARCH_BYTES:
            break
        head += piece[: USAGE_SEARCH_BYTES - len(head)]
    for piece in reversed(pieces):
        if len(tail) >= USAGE_SEARCH_BYTES:
            break
        tail = piece[-(USAGE_SEARCH_BYTES - len(tail)) :] + tail
    return head, tail


def _usage(end: bytes) -> Mapping[str, Any] | None:
    """Finds the usage object. The response contains no text of the client, so the word can only be the key."""
    _, found, rest = end.rpartition(b'"usage"')
    if not found:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(rest.lstrip().removeprefix(b":").decode("utf-8", "replace").lstrip())
    except ValueError:
        return None
    return usage if isinstance(usage, dict) else None
