"""Large and hostile conversations in each API's format, and JSON Schemas of clients."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.costs.input import FULL, IN_TRIAGE, PATTERN, Input
from tests.fuzz import dialects
from tests.fuzz.valid_bodies import PICTURE, SCHEMA
from tests.gateway.doubles.engine import chunk, usage
from tests.gateway.doubles.raw_engine import HEAD, LAST, Step, in_chunks

Make = Callable[[Any, Mapping[str, Any]], bytes]
"""Makes a body from content and further fields."""


def chat_body(content: Any, more: Mapping[str, Any]) -> bytes:
    return json.dumps(
        {"model": "scripted", "messages": [{"role": "user", "content": content}], "max_tokens": 5, **more}
    ).encode()


def messages_body(content: Any, more: Mapping[str, Any]) -> bytes:
    return json.dumps(
        {"model": "claude", "messages": [{"role": "user", "content": content}], "max_tokens": 5, **more}
    ).encode()


def _count(content: Any, more: Mapping[str, Any]) -> bytes:
    return json.dumps({"model": "claude", "messages": [{"role": "user", "content": content}], **more}).encode()


def _responses(content: Any, more: Mapping[str, Any]) -> bytes:
    return json.dumps({"model": "scripted", "input": [{"role": "user", "content": content}], **more}).encode()


DIALECTS: Mapping[str, Make] = {
    "/v1/chat/completions": chat_body,
    "/v1/route": chat_body,
    "/v1/messages": messages_body,
    "/v1/messages/count_tokens": _count,
    "/v1/responses": _responses,
}


def conversation_inputs() -> Iterator[Input]:
    """Yields large bodies in each API's format that are valid, or that break a limit only near their end."""
    for path, make in DIALECTS.items():
        text = "input_text" if path.endswith("responses") else "text"
        parts = [{"type": text, "text": "a" * 7000}] * 1000
        named: dict[str, bytes] = {
            "one text": make("a" * (FULL - 300), {}),
            "a text of escapes": make("Z", {}).replace(b'"Z"', b'"' + b"\\u00e9" * (FULL // 6 - 60) + b'"'),
            "words": make("word " * (FULL // 5 - 60), {}),
            "personal data": make("ann@example.org 4111 1111 1111 1111 " * 20_000, {}),
            "1,000 parts": make(parts, {}),
            "1,001 parts": make([*parts, parts[0]], {}),
            "a picture": make([_picture(path, "A" * (FULL - 400))], {}),
            "31 levels": make("x", {"metadata": nested(29)}),
            "100,000 levels": make("Z", {}).replace(b'"Z"', b"[" * 100_000 + b"]" * 100_000),
            "150,000 names of metadata": make("x", {"metadata": {f"n{number}": "" for number in range(150_000)}}),
            "31,000 names of metadata": make("x", {"metadata": {f"n{number}": "" for number in range(31_000)}}),
            "99,000 objects": make("x", {"tools": [{}] * 99_000}),
            "15,900 objects": make("x", {"tools": [{}] * 15_900}),
            "128 tools": make("x", {"tools": [_tool(path, number) for number in range(128)]}),
            "300,000 numbers": make("x", {"metadata": {"n": [1.5] * 300_000}}),
            "300,000 numbers after 6 MB of text": make("word " * 1_200_000, {"metadata": {"n": [1.5] * 300_000}}),
            "31,000 numbers": make("x", {"metadata": {"n": [1.5] * 31_000}}),
            "31,000 unknown texts": make("x", {"x": ["a"] * 31_000}),
            "31,000 unknown numbers": make("x", {"x": list(range(10_000, 41_000))}),
        }
        for name, body in named.items():
            yield Input(f"{path}: {name}", "plain", "POST", path, body)
        many = json.loads(make("a" * 7000, {}))
        field = "input" if "input" in many else "messages"
        many[field] = [{"role": role, "content": "a" * 7000} for role in ("user", "assistant")] * 500
        yield Input(f"{path}: 1,000 messages", "plain", "POST", path, json.dumps(many).encode())
    space = {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": f"f{n}"} for n in range(15_000)]}
    yield Input(
        "/v1/responses: 15,000 tools of a namespace",
        "plain",
        "POST",
        "/v1/responses",
        _responses("x", {"tools": [space]}),
    )
    yield Input("/v1/chat/completions: 31,000 biases", "plain", "POST", "/v1/chat/completions",
                chat_body("x", {"logit_bias": {str(number): 1 for number in range(31_000)}}))  # fmt: skip
    yield Input("auto: one text", "plain", "POST", "/v1/chat/completions", chat_body("a " * 500_000, {"model": "auto"}))
    yield Input(
        "auto: 1 MiB of other letters",
        "plain",
        "POST",
        "/v1/chat/completions",
        chat_body("é漢" * 100_000, {"model": "auto"}),
    )


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


def _picture(path: str, data: str) -> dict[str, Any]:
    if path.endswith("responses"):
        return {"type": "input_image", "image_url": PICTURE + data}
    if "messages" in path:
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    return {"type": "image_url", "image_url": {"url": PICTURE + data}}


def _tool(path: str, number: int) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {f"p{one}": {"type": "string", "description": "a" * 100} for one in range(120)},
    }
    if "/messages" in path:
        return {"name": f"t{number}", "input_schema": schema}
    function = {"name": f"t{number}", "parameters": schema}
    return (
        {"type": "function", **function} if path.endswith("responses") else {"type": "function", "function": function}
    )


def schema_inputs() -> Iterator[Input]:
    branch = {"type": "array", "items": {"$ref": "#/$defs/n"}}
    tree = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [branch] * 3}}}
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(18)}
    schemas: dict[str, tuple[Any, str]] = {
        "10 patterns": ({"properties": {f"p{n}": {"pattern": f"{PATTERN}{n}"} for n in range(10)}}, "{}"),
        "a tree of 8 levels": (tree, "[" * 8 + "1" + "]" * 8),
        "18 doublings": ({"$ref": "#/$defs/d0", "$defs": {**doubling, "d18": {"type": "string"}}}, "1"),
        "60 kB of names": ({"properties": {f"property-{n}": {"type": "string"} for n in range(1600)}}, "{}"),
        "60 kB of choices": ({"enum": [f"choice-{n}" for n in range(4000)]}, '"x"'),
        "a long answer": (SCHEMA, json.dumps({"intent": "a" * 500_000})),
        "a long list": ({"uniqueItems": True}, json.dumps(list(range(50_000)))),
        "8 MB of choices": ({"enum": ["x" * 1_000] * 8_300}, '"x"'),
        "8 MB in one text": ({"description": "x" * (FULL - 600)}, "1"),
        "16,000 lists": ({"enum": [[]] * 15_500}, "1"),
    }
    many = {
        "128 choices of 1,900 numbers": ({"items": {"allOf": [{"type": "integer"}] * 10}}, json.dumps([1] * 1_900)),
        "128 choices of 7,000 characters": ({"type": "string"}, json.dumps("x" * 7_000)),
    }
    for name, (schema, answer) in (schemas | many).items():
        choices = 128 if name in many else 1
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        more = {"model": "auto", "metadata": IN_TRIAGE, "response_format": wanted, "n": choices}
        events = [chunk(answer, index=number) for number in range(choices)]
        yield Input(
            f"schema: {name}",
            "plain",
            "POST",
            "/v1/chat/completions",
            chat_body("I left my umbrella", more),
            engine=streamed_answer(*events),
        )


def streamed_answer(*events: Any) -> tuple[Step, ...]:
    pieces = dialects.streamed([*events, chunk("", finish="stop"), usage()])
    return (HEAD, *(in_chunks([pieces[start : start + 65536]]) for start in range(0, len(pieces), 65536)), LAST)
