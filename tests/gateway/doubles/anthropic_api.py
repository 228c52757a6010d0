"""A double of Anthropic's Messages API, and gateways with it as an engine."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.http_server import serving

FIELDS = frozenset(
    {"model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences", "tools",
     "tool_choice", "thinking", "metadata", "output_config", "service_tier", "cache_control", "context_management"}
)  # fmt: skip
Event = Mapping[str, Any]


def started(**usage: Any) -> Event:
    counted = {"input_tokens": 10, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 1}
    message = {"id": "msg_01", "type": "message", "role": "assistant", "content": [], "model": "claude-haiku-4-5"}
    return {"type": "message_start", "message": {**message, "usage": {**counted, **usage}}}


def ended(reason: str = "end_turn", output_tokens: int = 2) -> Sequence[Event]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}},
        {"type": "message_stop"},
    ]


def block(index: int, kind: str, *deltas: Event, **more: Any) -> Sequence[Event]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(*pieces: str, index: int = 0) -> Sequence[Event]:
    return block(index, "text", *({"type": "text_delta", "text": piece} for piece in pieces), text="")


HELLO = [started(), {"type": "ping"}, *text("Hello", " there"), *ended()]
TOOL = [
    started(),
    *text("I look.", index=0),
    *block(
        1, "tool_use", {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city": '},
        {"type": "input_json_delta", "partial_json": '"Oslo"}'},
        id="toolu_01", name="weather", input={},
    ),
    *ended("tool_use", 30),
]  # fmt: skip


def written(events: Sequence[Event]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


class Anthropic:
    """A double of Anthropic's API. It answers and rejects requests as Anthropic's documentation says."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.events: Sequence[Event] = HELLO
        self.headers: list[Mapping[str, str]] = []
        self.failure: tuple[int, str, dict[str, str]] | None = None
        self.hold: asyncio.Event | None = None
        self.running = 0

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if request.headers.get("x-api-key") != "sk-ant":
            return self._error(401, "authentication_error", "invalid x-api-key")
        if request.headers.get("anthropic-version") != "2023-06-01":
            return self._error(400, "invalid_request_error", "anthropic-version: header is required")
        if self.failure:
            status, kind, headers = self.failure
            return self._error(status, kind, "it says no", headers)
        problem = self._problem(body)
        if problem:
            return self._error(400, "invalid_request_error", problem)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        self.running += 1
        try:
            await response.write(written(self.events))
            if self.hold:
                await self.hold.wait()
        finally:
            self.running -= 1
        return response

    def _problem(self, body: Mapping[str, Any]) -> str:
        unknown = body.keys() - FIELDS
        if unknown:
            return f"{min(unknown)}: Extra inputs are not permitted"
        if "max_tokens" not in body:
            return "max_tokens: Field required"
        roles = [message["role"] for message in body["messages"]]
        if roles[:1] != ["user"] or {*roles} - {"user", "assistant"}:
            return "messages: first message must use the user role"
        blocks = [one for message in body["messages"] for one in message["content"]]
        if any(one["type"] == "text" and not one["text"] for one in blocks):
            return "messages: text content blocks must be non-empty"
        return ""

    def _error(self, status: int, kind: str, message: str, headers: Mapping[str, str] = {}) -> web.Response:
        error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
        return web.json_response(error, status=status, headers=headers)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "claude-haiku-4-5", "type": "model"}], "has_more": False})


@asynccontextmanager
async def running_anthropic() -> AsyncIterator[Anthropic]:
    double = Anthropic()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/messages", double.messages)
    app.router.add_get("/v1/models", double.models)
    async with serving(app, handler_cancellation=True, shutdown_timeout=0.1) as double.url:
        yield double


@asynccontextmanager
async def site(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, key: str = "sk-ant", **model: Any
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("CLAUDE_KEY", key)
    models = neighbours.config.models
    models["models"]["claude"] = {"upstream": "claude-haiku-4-5", **model}  # with the listed price
    models["engines"]["claude"] = {
        "model": "claude", "provider": "anthropic", "url": anthropic.url, "api_key_env": "CLAUDE_KEY",
    }  # fmt: skip
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        yield http


async def ask(http: httpx.AsyncClient, *messages: Any, **more: Any) -> httpx.Response:
    messages = messages or ({"role": "user", "content": "Hi"},)
    return await http.post("/v1/chat/completions", json={"model": "claude", "messages": [*messages], **more})
