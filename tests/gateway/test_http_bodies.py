"""Request bodies of every kind over HTTP: what is accepted, and what is rejected in OpenAI's format."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine

CHAT = "/v1/chat/completions"


def asking(text: str = IN_CHAT, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


async def test_text_parts_are_joined(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    parts = [{"type": "text", "text": "Hello, how are"}, {"type": "text", "text": "you today?"}]
    response = await http.post(CHAT, json={"model": "auto", "messages": [{"role": "user", "content": parts}]})
    assert response.headers["x-pointsman-task"] == "chat"
    assert engine.bodies[0]["messages"][-1]["content"] == IN_CHAT.replace(" you", "\nyou")


@pytest.mark.parametrize("content", ["", None, [], " ", [{"type": "text", "text": ""}]])
async def test_an_empty_message_is_answered(http: httpx.AsyncClient, engine: ScriptedEngine, content: Any) -> None:
    for model in "auto", "tiny":
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        assert (await http.post(CHAT, json=body)).status_code == 200
        expected = content if isinstance(content, str) else ""
        assert engine.bodies[-1]["messages"][-1] == {"role": "user", "content": expected}


async def test_a_models_earlier_thinking_is_a_line_of_its_message(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    parts = [
        {"type": "thinking", "thinking": "They want a hat.", "signature": "x"},
        {"type": "text", "text": "Which hat?"},
    ]
    messages = [{"role": "user", "content": "hat"}, {"role": "assistant", "content": parts, "reasoning": "Hats."}]
    body = {"model": "tiny", "messages": [*messages, {"role": "user", "content": "a red one"}]}
    assert (await http.post(CHAT, json=body)).status_code == 200
    shown = {"role": "assistant", "content": "They want a hat.\nWhich hat?", "reasoning": "Hats."}
    assert engine.bodies[-1]["messages"][1] == shown


async def test_a_conversation_with_tools_is_forwarded_unchanged(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]
    await http.post(CHAT, json={"model": "tiny", "messages": messages})
    messages[1]["content"] = ""
    assert engine.bodies[0]["messages"] == messages


IMAGE = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]


MALFORMED: list[tuple[Any, str | None, str | None]] = [
    (b"{", "bad_json", None),
    (b"", "bad_parameter", None),
    (b"\xff\xfe{}", "bad_json", None),
    (b"[]", "bad_parameter", None),
    (b"null", "bad_parameter", None),
    (b"{}", "missing_model", "model"),
    (asking(messages="hello"), "bad_parameter", "messages"),
    (asking(messages=[]), "empty_messages", "messages"),
    (asking(messages=[{"content": "x"}]), "bad_parameter", "messages[0].role"),
    (asking(messages=[{"role": "user", "content": 5}]), "bad_parameter", "messages[0].content"),
    (asking(messages=[{"role": "user", "content": IMAGE}]), "unsupported_content", "messages"),
    (asking(model=5), "bad_parameter", "model"),
    (asking(model=None), "bad_parameter", "model"),
    (asking(stream="maybe"), "bad_parameter", "stream"),
    (asking(max_tokens="many"), "bad_parameter", "max_tokens"),
    (asking(max_tokens=1.5), "bad_parameter", "max_tokens"),
    (asking(max_completion_tokens=0), "bad_parameter", "max_completion_tokens"),
    (asking(temperature=-1), "bad_parameter", "temperature"),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}', None, "temperature"),
    (asking(seed=2**70), "bad_parameter", "seed"),
    (asking(seed=2**63), "bad_parameter", "seed"),
    (asking(seed=-(2**63) - 1), "bad_parameter", "seed"),
    (asking(metadata={"a": 5}), "bad_parameter", "metadata.a"),
    (asking(stop=[1]), "bad_parameter", None),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}', "bad_text", "messages[0].content"),
    (
        b'{"model": "auto", "messages": [{"role": "user", "content": [{"type": "text", "text": "\\ud800"}]}]}',
        "bad_text",
        None,
    ),
    (b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}', "bad_text", "model"),
    (b'{"model": "auto", "messages": [{"role": "\\ud800", "content": "x"}]}', "bad_text", "messages[0].role"),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "metadata": {"\\ud800": 5}}', None, None),
    (b"[" * 100_000, None, None),
]
"""A body, and the expected code and parameter. A code of None means that pydantic's own code is acceptable."""


@pytest.mark.parametrize("route", [CHAT, "/v1/route"])
async def test_a_malformed_body_is_a_client_error_in_openais_format(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str
) -> None:
    for body, code, param in MALFORMED:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await http.post(route, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400, body
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        assert error["code"] == code or code is None, body
        assert error["param"] == param or param is None, body
    assert engine.bodies == []


@pytest.mark.parametrize(("body", "name"), [("chat", "stop"), ("messages", "stop_sequences")])
def test_an_invalid_body_of_many_values_takes_little_memory(body: str, name: str) -> None:
    """In a list of Python a value takes 8 bytes; pydantic's decoder took 32, and its tree was then converted.

    The test runs in a process of its own, in which nothing else needs memory meanwhile.
    """
    command = [sys.executable, "-m", "tests.gateway.memory_of_body", body, name]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(ended.stdout) < 6


async def _pieces(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 65536):
        yield b" " * 65536


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_body_that_is_too_large_is_refused(http: httpx.AsyncClient, in_pieces: bool) -> None:
    total = 9 * 1024 * 1024
    content = _pieces(total) if in_pieces else b" " * total
    response = await http.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "body_too_large"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", CHAT, 405), ("POST", "/v1/models", 405)]
)
async def test_an_unknown_route_is_reported_in_openais_format(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await http.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, "unknown_route")


@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("POST", "/v1/messages")])
async def test_a_wrong_base_url_is_explained(http: httpx.AsyncClient, method: str, path: str) -> None:
    for wrong in (path.removeprefix("/v1"), "/v1" + path):
        response = await http.request(method, wrong, json={})
        assert response.status_code == 404
        assert f"did you mean {path}? Check the client's base URL" in response.json()["error"]["message"]


async def test_a_route_request_cannot_be_streamed(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/route", json=asking(stream=True))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stream")


async def test_a_connection_survives_errors(http: httpx.AsyncClient) -> None:
    for _ in range(5):
        assert (await http.post(CHAT, content=b"{")).status_code == 400
        assert (await http.post(CHAT, json=asking())).status_code == 200
