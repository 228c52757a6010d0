"""Inputs other than conversations: requests to other routes with a key, engines' answers, and gRPC messages."""

import json
from collections.abc import Iterator
from typing import Any

from pointsman.v1 import gateway_pb2 as pb

from benchmarks.costs.conversation_inputs import chat_body, messages_body, nested, streamed_answer
from benchmarks.costs.input import CONSOLE, FULL, Input
from tests.fuzz import dialects
from tests.gateway.doubles import http2_client as http2
from tests.gateway.doubles.engine import chunk
from tests.gateway.doubles.raw_engine import HEAD, LAST, in_chunks
from tests.security.measuring import MIB
from tests.security.test_http_bodies import bad_bodies

TOKEN_IDS = list(range(10_000, 310_000))


def page_inputs() -> Iterator[Input]:
    for path in ("/v1/models", "/v1/models/tiny", "/v1/tasks", "/v1/configuration"):
        yield Input(path, "plain", "GET", path)
    for path in ("/admin/v1/keys", "/admin/v1/tenants", "/admin/v1/budgets", "/admin/v1/usage", "/admin/v1/config"):
        yield Input(path, "admin", "GET", path)
    for path in ("/console/api/overview", "/console/api/decisions", "/console/api/adapters"):
        yield Input(path, "operator", "GET", path, headers=CONSOLE)


def invalid_inputs() -> Iterator[Input]:
    for number, (path, body) in enumerate(bad_bodies()):
        name = f"{path}: invalid {number}, {body[:40].decode()}..."
        yield Input(name, "admin" if "/admin/" in path else "plain", "POST", path, body, CONSOLE)


def route_inputs() -> Iterator[Input]:
    texts = {
        "2,048 inputs": ["a" * 3000] * 2048,
        "one input": "a" * (FULL - 100),
        "token ids": [TOKEN_IDS[:1000]] * 300,
    }
    for model in ("minilm", "remote"):
        for name, given in texts.items():
            body = json.dumps({"model": model, "input": given}).encode()
            yield Input(f"/v1/embeddings: {model}, {name}", "plain", "POST", "/v1/embeddings", body)
    yield Input("/v1/embeddings: minilm, 500 short texts", "plain", "POST", "/v1/embeddings",
                json.dumps({"model": "minilm", "input": ["a short text"] * 500}).encode())  # fmt: skip
    prompts: dict[str, Any] = {
        "one text": "a" * (FULL - 100),
        "1,000 texts": ["a" * 7000] * 1000,
        "token ids": TOKEN_IDS,
    }
    for name, prompt in prompts.items():
        body = json.dumps({"model": "scripted", "prompt": prompt, "max_tokens": 1}).encode()
        yield Input(f"/v1/completions: {name}", "plain", "POST", "/v1/completions", body)
    rating = {"decision_id": "d", "rating": 1, "right_answer": "a" * (FULL - 200)}
    yield Input("/v1/feedback: a long answer", "plain", "POST", "/v1/feedback", json.dumps(rating).encode())
    result = {"task": "chat", "path": "cached", "score": 1, "count": 1}
    yield Input(
        "/v1/evaluations: 6,000 results",
        "operator",
        "POST",
        "/v1/evaluations",
        json.dumps({"results": [result] * 6_000}).encode(),
    )
    names = {"tenant": "a", "scope": {"paths": [f"p{number}" for number in range(31_000)]}}
    yield Input("/admin/v1/keys: 31,000 names", "admin", "POST", "/admin/v1/keys", json.dumps(names).encode())
    login = json.dumps({"code": "a" * FULL}).encode()
    yield Input("/console/api/login: a long code", "plain", "POST", "/console/api/login", login, CONSOLE)


def engine_inputs() -> Iterator[Input]:
    call = {"index": 0, "function": {"arguments": "a"}}
    answers = {
        "20,000 words": [chunk("a")] * 20_000,
        "20,000 pieces of arguments": [chunk(None, tool_calls=[call])] * 20_000,
        "20,000 pieces of reasoning": [chunk(None, reasoning_content="a")] * 20_000,
        "a word of 1 MB": [chunk("a" * 1_000_000)],
        "20 words of 1 MB": [chunk("a" * 1_000_000)] * 20,
        "64 levels": [chunk("a", extra=nested(50))],
    }
    for is_stream in (False, True):
        for name, events in answers.items():
            body = chat_body("x", {"stream": is_stream})
            title = f"engine, {'stream' if is_stream else 'plain'}: {name}"
            yield Input(title, "plain", "POST", "/v1/chat/completions", body, engine=streamed_answer(*events))
    for name, events in answers.items():
        turns = [{"role": "user", "content": "x"}]
        body = json.dumps({"model": "scripted", "input": turns, "stream": True}).encode()
        title = f"engine, streamed Responses: {name}"
        yield Input(title, "plain", "POST", "/v1/responses", body, engine=streamed_answer(*events))
    deltas = [{"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "a"}}] * 20_000
    events = [*dialects.MESSAGES[:7], *deltas, *dialects.MESSAGES[-2:]]
    yield Input("engine, Anthropic: 20,000 words", "plain", "POST", "/v1/messages", messages_body("x", {}),
                engine=(HEAD, in_chunks([dialects.named(events)]), LAST))  # fmt: skip
    vectors = {
        "object": "list",
        "data": [{"index": n, "embedding": [0.1] * 1536} for n in range(500)],
        "usage": {"total_tokens": 9},
    }
    body = json.dumps({"model": "remote", "input": ["a"] * 500}).encode()
    yield Input(
        "engine: 500 embeddings",
        "plain",
        "POST",
        "/v1/embeddings",
        body,
        engine=(dialects.json_answer(json.dumps(vectors).encode()),),
    )


def grpc_inputs() -> Iterator[Input]:
    def request(text: str = "x", count: int = 1, **sampling: Any) -> bytes:
        messages = [pb.Message(role="user", content=text)] * count
        made = pb.GenerateRequest(model="scripted", messages=messages, sampling=pb.Sampling(max_tokens=5, **sampling))
        return bytes(made.SerializeToString())

    deep = '{"metadata":' + "[" * 100_000 + "]" * 100_000 + "}"
    messages = {
        "8 MiB of text": request("a" * (FULL - 100)),
        "1,000 messages": request("a" * 7000, 1000),
        "100,000 messages": request("", 100_000),
        "extra_json of 31,000 numbers": request(extra_json=json.dumps({"logit_bias": {"a": [1] * 31_000}})),
        "extra_json of 100,000 levels": request(extra_json=deep),
        "9 MiB": request("a" * 9 * MIB),
    }
    for key in ("", "plain"):
        for name, body in messages.items():
            yield Input(f"gRPC: {name}", key, body=body, grpc_method="Generate")
    floods = {
        "pings": http2.frame(http2.PING, 0, 0, bytes(8)) * 5_000,
        "settings": http2.settings_frame({4: 65535}) * 5_000,
        "resets": b"".join(http2.frame(http2.HEADERS, 4, n, b"\x82") + http2.reset_frame(n) for n in range(1, 4001, 2)),
        "a header without end": http2.frame(http2.HEADERS, 0, 1, b"\x82")
        + http2.frame(http2.CONTINUATION, 0, 1, bytes(16_000)) * 60,
        "window updates": http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 5_000,
        "unknown frames": http2.frame(99, 0, 0, bytes(1000)) * 1_000,
    }
    for name, frames in floods.items():
        yield Input(f"gRPC frames: {name}", "", raw=http2.PREFACE + http2.settings_frame({}) + frames, port="grpc")
