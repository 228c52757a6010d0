"""Chat completions and Messages are two formats of the same request: decision, text, usage, cost and errors are
equal."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.http.app import build_app
from pointsman_gateway.http.connection_limits import ConnectionLimits
from pointsman_gateway.http.fast_reader import ChatReader
from pointsman_gateway.http.server import serve_http
from pointsman_servicekit.keys.records import KeyScope, Limits

from tests.gateway.doubles import anthropic_shapes, openai_shapes
from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, Neighbours, counters, http_dependencies, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
COUNT = "/v1/messages/count_tokens"
USER = {"role": "user", "content": IN_CHAT}
PLAIN: dict[str, Any] = {"model": "tiny", "max_tokens": 20, "messages": [USER]}
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Exchange:
    """What a client receives for a request, without ids and times."""

    headers: Mapping[str, str]
    text: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    receipt: Mapping[str, Any]
    engine_request: Mapping[str, Any]
    counted: Mapping[Any, float]


OF_ONE_ANSWER = {"x-pointsman-decision-id", "x-pointsman-overhead-ms"}
COUNTED = ("pointsman_requests", "pointsman_tokens", "pointsman_cost_usd", "pointsman_decisions")


async def ask_and_count(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine, url: str, body: Any
) -> Exchange:
    before = counters(gateway, COUNTED)
    response = await http.post(url, json=body)
    assert response.status_code == 200, response.text
    if body.get("stream"):
        events = openai_shapes.events(response.text)
        if url == CHAT:
            last = events[-1]
            text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
        else:
            last = events[-2]
            text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    else:
        last = response.json()
        text = last["choices"][0]["message"]["content"] if url == CHAT else "".join(b["text"] for b in last["content"])
    usage, receipt = last["usage"], last["pointsman"]
    receipt["seconds"] = sorted(receipt["seconds"])
    if url == CHAT:
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        tokens = usage["prompt_tokens"], cached, usage["completion_tokens"]
    else:
        cached = usage["cache_read_input_tokens"]
        tokens = usage["input_tokens"] + cached, cached, usage["output_tokens"]
    headers = {n: v for n, v in response.headers.items() if n.startswith("x-pointsman") and n not in OF_ONE_ANSWER}
    counted = {
        key: change for key, n in counters(gateway, COUNTED).items() if (change := round(n - before.get(key, 0.0), 12))
    }
    return Exchange(headers, text, *tokens, receipt, engine.bodies[-1], counted)


TOOL = {"description": "The weather.", "schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
FUNCTION = {"name": "weather", "description": TOOL["description"], "parameters": TOOL["schema"]}
CALL_ARGUMENTS = {"city": "Rome"}
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "chat": ({"messages": [{"role": "user", "content": IN_CHAT}]}, {}, {}),
    "policy, with a search": ({"messages": [{"role": "user", "content": IN_POLICY}]}, {}, {}),
    "triage, by rule": (
        {"messages": [{"role": "user", "content": IN_TRIAGE}], "metadata": {"source": "inbox"}}, {}, {}
    ),
    "none": ({"messages": [{"role": "user", "content": IN_NONE}]}, {}, {}),
    "a path": ({"model": "path:letter", "messages": [USER], "temperature": 0.5, "top_p": 0.9}, {}, {}),
    "a system message": (
        {"messages": [USER, {"role": "assistant", "content": "Well."}, USER]},
        {"messages": [
            {"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": "Well."}, USER,
        ]},
        {"system": [{"type": "text", "text": "Be kind."}]},
    ),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": IN_POLICY}]}]}, {}, {}),
    "a user": ({"messages": [USER]}, {"user": "u1"}, {"metadata": {"user_id": "u1"}}),
    "stop": ({"messages": [USER]}, {"stop": ["END"]}, {"stop_sequences": ["END"]}),
    "tools": (
        {"model": "tiny", "top_k": 3},
        {
            "messages": [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [{
                    "id": "c1", "type": "function",
                    "function": {"name": "weather", "arguments": json.dumps(CALL_ARGUMENTS)},
                }]},
                {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": CALL_ARGUMENTS},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}]},
            ],
            "tools": [{"name": "weather", "description": TOOL["description"], "input_schema": TOOL["schema"]}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", ASKED)
async def test_the_same_request_has_the_same_decision_text_usage_and_cost(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine, name: str, streams: bool
) -> None:
    engine.says(*answer("Hello", " you", prompt_tokens=30, cached_tokens=16))
    both, chat, messages = ASKED[name]
    asked = {"model": "auto", "max_tokens": 20, **both, "stream": streams}
    include = {"stream_options": {"include_usage": True}} if streams else {}
    by_chat = await ask_and_count(gateway, http, engine, CHAT, {**asked, **chat, **include})
    by_messages = await ask_and_count(gateway, http, engine, MESSAGES, {**asked, **messages})
    assert by_messages == by_chat
    assert by_messages.text == "Hello you"
    assert by_messages.counted


# -- rejections


@pytest.fixture
async def guarded(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Runs a gateway with authentication that handles one request at a time."""
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.settings |= {"max_in_flight": 1, "queue_size": 1, "queue_timeout": 0.05, "tenant_share": 1.0}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@asynccontextmanager
async def as_client(gateway: Gateway, valkey: Valkey, **order: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(gateway) as client:
        client.headers["x-api-key"] = (await issue(valkey.url, **order)).credential.text
        yield client


def error_of(url: str, response: httpx.Response) -> Mapping[str, Any]:
    """Returns the error of a response; its format depends on the API of `url`."""
    return openai_shapes.error(response) if url == CHAT else anthropic_shapes.error(response)


TYPES = {  # by status in OpenAI's dialect: the status and types in both
    400: (400, "invalid_request_error", "invalid_request_error"),
    401: (401, "authentication_error", "authentication_error"),
    403: (403, "permission_error", "permission_error"),
    404: (404, "invalid_request_error", "not_found_error"),
    405: (405, "invalid_request_error", "invalid_request_error"),
    429: (429, "rate_limit_error", "rate_limit_error"),
    503: (529, "server_error", "overloaded_error"),
    504: (504, "server_error", "timeout_error"),
}


def assert_rejected(url: str, response: httpx.Response, status: int, code: str, asked: object = "") -> None:
    error = error_of(url, response)
    anthropic_status, openai_type, anthropic_type = TYPES[status]
    if code == "body_too_large":
        anthropic_status, anthropic_type = 413, "request_too_large"
    expected = (status, openai_type) if url == CHAT else (anthropic_status, anthropic_type)
    assert (response.status_code, error["type"], error["code"]) == (*expected, code), (url, asked)
    assert response.headers["x-request-id"]
    if url != CHAT:
        assert response.json()["request_id"] == response.headers["x-request-id"] == response.headers["request-id"]


ROUTES = pytest.mark.parametrize("url", [CHAT, MESSAGES, COUNT])

BODIES: list[tuple[bytes, str]] = [
    (b"{", "bad_json"),
    (b"", "bad_parameter"),
    (b"null", "bad_parameter"),
    (b"[]", "bad_parameter"),
    (b"\xff\xfe{}", "bad_json"),
    (b'{"model": 5, "messages": 5}', "bad_parameter"),
    (b'{"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "\\ud800"}]}', "bad_text"),
    (b'{"model": "tiny", "x": ' + b"[" * 3000 + b"]" * 3000 + b"}", "body_too_deep"),
    (b'{"model": "' + b"x" * (8 * 1024 * 1024) + b'"}', "body_too_large"),
    (json.dumps({**PLAIN, "model": ""}).encode(), "missing_model"),
    (json.dumps({**PLAIN, "messages": []}).encode(), "empty_messages"),
    (json.dumps({**PLAIN, "messages": [USER] * 1001}).encode(), "too_many_messages"),
    (json.dumps({**PLAIN, "temprature": 1}).encode(), "unsupported_parameter"),
]


@ROUTES
async def test_an_invalid_body_is_rejected_in_the_callers_dialect(guarded: Gateway, valkey: Valkey, url: str) -> None:
    async with as_client(guarded, valkey) as http:
        for body, code in BODIES:
            if url != COUNT or code != "unsupported_parameter":  # which fields an engine accepts is its own matter
                assert_rejected(url, await http.post(url, content=body, headers=JSON), 400, code, body[:80])
        late = await http.post(url, json=PLAIN, headers={"x-request-timeout": "soon"})
        assert_rejected(url, late, 400, "bad_parameter")
        assert "soon" in error_of(url, late)["message"]


@ROUTES
async def test_keys_are_checked_in_the_callers_dialect(guarded: Gateway, valkey: Valkey, url: str) -> None:
    async with open_http_client(guarded) as http:
        for headers, code in (
            ({}, "missing_key"),
            ({"x-api-key": "sk-ant-1"}, "unknown_key"),
            ({"authorization": "Bearer pm_x"}, "unknown_key"),
            ({"authorization": "Basic eDp5"}, "missing_key"),
        ):
            assert_rejected(url, await http.post(url, json=PLAIN, headers=headers), 401, code)
    async with as_client(guarded, valkey, scope=KeyScope(paths=("handbook",))) as http:
        denied = await http.post(url, json={**PLAIN, "model": "path:small_talk"})
        assert_rejected(url, denied, 403, "not_in_scope")


@ROUTES
async def test_unknown_names_are_rejected_in_the_callers_dialect(guarded: Gateway, valkey: Valkey, url: str) -> None:
    async with as_client(guarded, valkey) as http:
        assert_rejected(url, await http.post(url, json={**PLAIN, "model": "claude-x"}), 404, "unknown_model")
        for method in ("GET", "PUT", "DELETE"):
            assert_rejected(url, await http.request(method, url), 405, "unknown_route")
        assert_rejected(url, await http.post(url + "/batches", json={}), 404, "unknown_route")


@pytest.mark.parametrize("url", [CHAT, MESSAGES])
async def test_limits_are_reported_in_the_callers_dialect(guarded: Gateway, valkey: Valkey, url: str) -> None:
    async with as_client(guarded, valkey, limits=Limits(requests_per_minute=1, tokens_per_minute=1000)) as http:
        # A minute may end between two requests.
        answers = [await http.post(url, json=PLAIN) for _ in range(4)]
        rejected = [response for response in answers if response.status_code == 429]
        assert rejected
        assert_rejected(url, rejected[0], 429, "requests_per_minute")
        assert int(rejected[0].headers["retry-after"]) > 0
        assert rejected[0].headers["x-ratelimit-limit-requests"] == "1"
    async with as_client(guarded, valkey, limits=Limits(dollars_per_day=1e-9)) as http:
        assert_rejected(url, await http.post(url, json=PLAIN), 429, "dollars_per_day")


@pytest.mark.parametrize("url", [CHAT, MESSAGES])
async def test_overload_is_reported_in_the_callers_dialect(
    guarded: Gateway, valkey: Valkey, engine: ScriptedEngine, url: str
) -> None:
    goes_on = asyncio.Event()
    engine.says(goes_on, *answer("Hello"))
    async with as_client(guarded, valkey) as http:
        first = asyncio.create_task(http.post(url, json=PLAIN))
        await until(lambda: engine.running == 1)
        rejected = await http.post(url, json=PLAIN)
        assert_rejected(url, rejected, 503, "overloaded")
        assert rejected.headers["retry-after"]
        goes_on.set()
        assert (await first).status_code == 200


@pytest.mark.parametrize("url", [CHAT, MESSAGES])
@pytest.mark.parametrize("streams", [False, True])
async def test_failures_of_engines_are_reported_in_the_callers_dialect(
    guarded: Gateway, valkey: Valkey, engine: ScriptedEngine, url: str, streams: bool
) -> None:
    asked = {**PLAIN, "stream": streams}
    async with as_client(guarded, valkey) as http:
        engine.says(asyncio.Event())
        late = await http.post(url, json=asked, headers={"x-request-timeout": "0.2"})
        assert_rejected(url, late, 504, "deadline_exceeded")
        engine.refuses(400, {"error": {"message": "the prompt is odd"}})
        refused = await http.post(url, json=asked)
        assert_rejected(url, refused, 400, "engine_refused")
        assert "the prompt is odd" in error_of(url, refused)["message"]
        engine.refuses(500, {"error": {"message": "no"}})
        assert_rejected(url, await http.post(url, json=asked), 503, "engine_error")
        engine.says(*beginning("Hel"), BREAK)
        cut = await http.post(url, json=asked)
        if not streams:
            assert_rejected(url, cut, 503, "engine_unavailable")
        else:
            last = openai_shapes.events(cut.text)[-1]
            assert last["error"]["code"] == "engine_unavailable"
            assert ("type" in last) == (url == MESSAGES)


def head(url: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {url} HTTP/1.1", "host: x", "content-type: application/json", *lines, "", ""]).encode()


RAW: dict[str, tuple[list[str], bytes, int, str]] = {
    "two keys": (["x-api-key: a", "x-api-key: b", "content-length: 2"], b"{}", 400, "duplicate_header"),
    "another encoding": (["transfer-encoding: gzip"], b"", 400, "bad_transfer_encoding"),
    "many headers": ([f"x-{number}: 1" for number in range(200)], b"", 431, "headers_too_large"),
    "no HTTP": (["content-length: 2", "content-length: 3"], b"{}", 400, "bad_http"),
    "a slow body": (["content-length: 100"], b"{", 408, "slow_body"),
    "a slow body that could be read fast": (["x-api-key: KEY", "content-length: 100"], b'{"model":', 408, "slow_body"),
}


@pytest.mark.parametrize("url", [CHAT, MESSAGES, f"{MESSAGES}?beta=true", COUNT])
async def test_rejected_connections_are_told_in_the_callers_dialect(guarded: Gateway, valkey: Valkey, url: str) -> None:
    key = (await issue(valkey.url)).credential.text
    dependencies = http_dependencies(guarded.components)
    limits = replace(ConnectionLimits(), body_timeout=0.2)
    async with serve_http(
        build_app(dependencies), "127.0.0.1:0", grace=1, limits=limits, chat_reader=ChatReader(dependencies)
    ) as address:
        while guarded.components.tenancy.identify_now(key) is None:
            await guarded.components.tenancy.identify(key)
        for name, (lines, body, status, code) in RAW.items():
            got_status, got = await exchange(address, head(url, *[line.replace("KEY", key) for line in lines]) + body)
            if got_status == 401:  # the key is checked before the body, so its slowness does not matter
                assert name == "a slow body"
                continue
            assert (got_status, got["error"]["code"]) == (status, code), name
            assert got["error"]["type"] == "invalid_request_error"
            assert (got.get("type") == "error") == (url != CHAT), name


async def exchange(address: str, data: bytes) -> tuple[int, Any]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
            return int(lines[0].split()[1]), json.loads(await reader.readexactly(length))
    finally:
        writer.close()


async def test_an_internal_error_names_the_request_in_anthropics_format(
    guarded: Gateway, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("a bug")

    stages = guarded.components.pipeline.current()
    monkeypatch.setattr(type(stages.router), "decide", fail)
    async with as_client(guarded, valkey) as http:
        for url in (MESSAGES, COUNT):
            response = await http.post(url, json=PLAIN)
            error = anthropic_shapes.error(response)
            assert (response.status_code, error["type"], error["code"]) == (500, "api_error", "internal")
            assert response.json()["request_id"] in error["message"]
