"""Requests to engines whose response is needed as a whole: embeddings, the list of models, and counted tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any
from urllib.parse import urlsplit

import msgspec
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.config.providers import VLLM
from pointsman_gateway.domain import Message, Path
from pointsman_gateway.engines.engines import Engines, Target
from pointsman_gateway.engines.http1 import ConnectionFailed, EngineConnection, Origin, Pool, TimedOut, origin_of
from pointsman_gateway.engines.openai_schema import Count
from pointsman_gateway.extensions.http_poster import HttpPoster, HttpReply, HttpUnreachable

CONNECT_SECONDS = 2.0
"""Time for an engine to accept a connection."""
COUNT_SECONDS = 5.0
"""Time for an engine to count tokens."""
MAX_COUNT_BYTES = 32 * 1024 * 1024
"""Bytes of an engine's answer, which lists all tokens."""
TOKENIZE_FIELDS = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
"""Fields of a request that change its prompt."""


Reserve = Callable[[int], None]
"""Reserves memory for so many bytes; raises PointsmanError."""


class PooledPoster:
    """Sends requests over the engines' connection pool; implements `HttpPoster`."""

    def __init__(self, pool: Pool, trace_headers: Callable[[], str]) -> None:
        """Takes `trace_headers`, which returns header lines with the trace context of the current request."""
        self._pool = pool
        self._trace_headers = trace_headers

    async def post(
        self,
        url: str,
        auth_header: str,
        body: bytes,
        deadline: float,
        max_bytes: int,
        reserve: Reserve | None = None,
    ) -> HttpReply:
        return await self._send("POST", url, auth_header, body, deadline, _Limit(max_bytes, reserve))

    async def get(self, url: str, auth_header: str, deadline: float, max_bytes: int) -> HttpReply:
        """Requests a URL as `post` does, without a body."""
        return await self._send("GET", url, auth_header, b"", deadline, _Limit(max_bytes))

    async def _send(
        self, method: str, url: str, auth_header: str, body: bytes, deadline: float, limit: "_Limit"
    ) -> HttpReply:
        origin = origin_of(url)
        query = f"?{query}" if (query := urlsplit(url).query) else ""
        head = (
            f"{method} {origin.path}{query} HTTP/1.1\r\n{origin.headers}x-request-id: {request_id.get()}\r\n"
            f"{self._trace_headers()}{auth_header}"
        ).encode("latin-1")
        try:
            return await self._send_on_pool(origin, head, body, deadline, limit)
        except ConnectionFailed as error:
            raise HttpUnreachable(str(error)) from error

    async def _send_on_pool(
        self, origin: Origin, head: bytes, body: bytes, deadline: float, limit: "_Limit"
    ) -> HttpReply:
        connection = self._pool.idle(origin)
        if connection is not None:
            try:
                return await self._exchange(connection, origin, head, body, deadline, limit)
            except TimedOut:
                raise
            except ConnectionFailed:
                if connection.status:
                    raise
                # The engine closed the idle connection before it got the request: retry on a new one.
        connection = await self._pool.connect(origin, CONNECT_SECONDS, deadline)
        return await self._exchange(connection, origin, head, body, deadline, limit)

    async def _exchange(
        self, connection: EngineConnection, origin: Origin, head: bytes, body: bytes, deadline: float, limit: "_Limit"
    ) -> HttpReply:
        try:
            connection.post(head, body)
            connection.set_timeouts(inf, deadline)
            pieces = await _read_body(connection, limit)
        except BaseException:
            connection.close()
            raise
        reply = HttpReply(connection.status, pieces, connection.retry_after, connection.location)
        self._pool.release(origin, connection)
        return reply


@dataclass(frozen=True, slots=True)
class _Limit:
    """What limits a response's body: its own bytes, and a budget that it shares with others."""

    max_bytes: int
    reserve: Reserve | None = None


async def _read_body(connection: EngineConnection, limit: _Limit) -> tuple[bytes, ...]:
    pieces, size = [], 0
    while True:
        piece = connection.read()
        if piece:
            pieces.append(piece)
            size += len(piece)
            if size > limit.max_bytes:
                raise ConnectionFailed(f"its answer is over {limit.max_bytes} bytes")
            if limit.reserve is not None:
                limit.reserve(len(piece))
        if connection.status and connection.is_complete:
            return tuple(pieces)
        if connection.failure is not None:
            raise type(connection.failure)(*connection.failure.args)
        await connection.wait_for_event()


class _Counted(msgspec.Struct):
    count: Count


class TokenCounter:
    """Counts the tokens of prompts with the tokenizers of vLLM engines; other APIs have no route for that."""

    def __init__(self, engines: Engines, http: HttpPoster | None, clock: Callable[[], float]) -> None:
        """Takes the event loop's `clock`; without `http`, `count` returns None."""
        self._engines = engines
        self._http = http
        self._clock = clock

    async def count(
        self, model: str, messages: Sequence[Message], fields: Mapping[str, Any], deadline: float
    ) -> int | None:
        """Returns the number of tokens; None if no engine of the base model can count them now. `fields` are the other
        fields of the chat request, such as `tools`.
        """
        try:
            # An adapter has the tokenizer of its base model, and need not be loaded.
            targets = self._engines.targets(Path(model, model))
        except PointsmanError:
            return None
        for target in targets:
            if self._http is not None and target.settings.accepted_fields.kind == VLLM:
                return await self._count_on(self._http, target, _tokenize_body(target, messages, fields), deadline)
        return None

    async def _count_on(self, http: HttpPoster, target: Target, body: bytes, deadline: float) -> int | None:
        engine, deadline = target.engine, min(deadline, self._clock() + COUNT_SECONDS)
        try:
            reply = await http.post(f"{engine.url}/tokenize", engine.api.auth_header, body, deadline, MAX_COUNT_BYTES)
            return msgspec.json.decode(b"".join(reply.pieces), type=_Counted).count if reply.status == 200 else None
        except (HttpUnreachable, msgspec.MsgspecError, RecursionError):
            return None


def _tokenize_body(target: Target, messages: Sequence[Message], fields: Mapping[str, Any]) -> bytes:
    body = {name: fields[name] for name in TOKENIZE_FIELDS if fields.get(name) is not None}
    if fields.get("tool_choice") == "none":
        body.pop("tools", None)  # the model does not see them
    effort = fields.get("reasoning_effort")
    if effort is not None:  # as vLLM does for chat completions
        thinking = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        body["chat_template_kwargs"] = {**thinking, **body.get("chat_template_kwargs", {})}
    shown = [{"role": m.role, "content": m.content, **m.extra} for m in messages]
    return msgspec.json.encode({**body, "model": target.upstream_model, "messages": shown})
