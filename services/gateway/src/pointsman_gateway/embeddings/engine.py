"""An embedding model behind some OpenAI-compatible engine; its answer is relayed as it comes."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable

from pointsman_gateway.embeddings.stage import Embedded, Wanted
from pointsman_gateway.pipeline.ports import HttpPoster, HttpReply, HttpUnreachable

LONGEST_ANSWER = 128 * 1024 * 1024
"""Bytes: 2048 vectors of 3072 numbers in full."""
TAIL = 4096
"""Bytes at an answer's end, or at its beginning, in which its usage is looked for."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is."""

    name: str
    """As the configuration calls it."""
    url: str
    model: str
    """As the engine calls it."""
    api_key: str = ""


class EngineModel:
    """Implements `Embedder`."""

    def __init__(self, endpoint: Endpoint, http: HttpPoster) -> None:
        self._endpoint = endpoint
        self._http = http

    async def embed(self, wanted: Wanted) -> Embedded:
        """Raises InvalidArgument for what the engine refuses, Unavailable."""
        endpoint = self._endpoint
        body = msgspec.json.encode({**wanted.body, "model": endpoint.model})
        try:
            reply = await self._http.post(
                f"{endpoint.url}/v1/embeddings", endpoint.api_key, body, wanted.request.deadline, LONGEST_ANSWER
            )
        except HttpUnreachable as error:
            raise self._failed(str(error)) from error
        if reply.status != 200:
            raise self._refused(reply)
        return Embedded(reply.pieces, self._tokens(reply, wanted))

    def _tokens(self, reply: HttpReply, wanted: Wanted) -> int:
        """The engine's own count. Megabytes of numbers are not parsed for it: it stands at one of the ends."""
        head, tail = _ends(reply.pieces)
        if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
            raise self._failed(f"its answer is no JSON object: {head[:100]!r}")
        usage = _usage(tail) or _usage(head) or {}
        counted = usage.get("total_tokens") or usage.get("prompt_tokens")
        # An engine that does not count has not worked for nothing.
        return counted if isinstance(counted, int) else wanted.estimated_tokens

    def _refused(self, reply: HttpReply) -> PointsmanError:
        body = b"".join(reply.pieces)[:65536]
        message, param = body[:500].decode("utf-8", "replace"), None
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # not worded as OpenAI's errors are
            error = json.loads(body)["error"]
            message, param = str(error["message"]), error.get("param")
        if reply.status in (400, 413, 422):
            return InvalidArgument(message, code="engine_refused", param=param if isinstance(param, str) else None)
        return Unavailable(
            f"embedding model '{self._endpoint.name}': its engine answered {reply.status}: {message}",
            code="engine_overloaded" if reply.status == 429 else "engine_error",
            retry_after=reply.retry_after or 1.0,
        )

    def _failed(self, why: str) -> Unavailable:
        return Unavailable(
            f"embedding model '{self._endpoint.name}': its engine failed: {why}",
            code="engine_unavailable",
            retry_after=1.0,
        )


def _ends(pieces: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """Up to TAIL bytes of each end; they overlap where there are few."""
    head, tail = b"", b""
    for piece in pieces:
        if len(head) >= TAIL:
            break
        head += piece[: TAIL - len(head)]
    for piece in reversed(pieces):
        if len(tail) >= TAIL:
            break
        tail = piece[-(TAIL - len(tail)) :] + tail
    return head, tail


def _usage(end: bytes) -> Mapping[str, Any] | None:
    """No text of the caller's stands in such an answer, so that the word is the key."""
    _, found, rest = end.rpartition(b'"usage"')
    if not found:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(rest.lstrip().removeprefix(b":").decode("utf-8", "replace").lstrip())
    except ValueError:
        return None
    return usage if isinstance(usage, dict) else None
