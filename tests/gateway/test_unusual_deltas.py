"""Deltas that differ from OpenAI's format are converted to it, or lead to an error that names the problem."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from pointsman_gateway.domain import Chunk, Usage
from pointsman_gateway.engines.dialects.openai.events import EventReader
from pointsman_gateway.engines.dialects.openai.schema import is_deep
from pointsman_gateway.http.dialects.openai.chat_encoder import ChatEncoder

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import DONE, ScriptedEngine, Step, answer, chunk, usage
from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.openai_clients import opening_client
from tests.gateway.doubles.raw_engine import event

USER: Any = [{"role": "user", "content": IN_CHAT}]
PARTS = [{"type": "text", "text": "Hel"}, {"type": "image", "url": "x"}, {"text": "lo"}]


def call(name: str = "", arguments: Any = "", **more: Any) -> dict[str, Any]:
    return {**more, "function": {"name": name or None, "arguments": arguments}}


def read(*choices: dict[str, Any]) -> tuple[list[Chunk], str]:
    """Returns the chunks, and the error with which they end."""
    reader = EventReader(choices=3)
    chunks = [piece for choice in choices for piece in reader.read(event({"choices": [choice]}))]
    return chunks, reader.failure


def delta(**delta: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta}


CALL = {"index": 0, "id": "a", "function": {"name": "pay", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("choice", "chunk"),
    [
        ({"index": None, "delta": {"content": "Hello"}}, Chunk(0, "Hello")),
        ({"delta": {"content": PARTS}}, Chunk(0, "Hello")),
        ({"index": 2, "delta": {"content": PARTS}}, Chunk(2, "Hello")),
        (delta(content=None, reasoning="so"), Chunk(0, "", None, {"delta": {"reasoning": "so"}})),
        (delta(tool_calls=CALL), Chunk(0, "", None, {"delta": {"tool_calls": [CALL]}})),
        (delta(tool_calls=[call("pay", id="a")]),
         Chunk(extra={"delta": {"tool_calls": [call("pay", id="a", index=0)]}})),
        (delta(tool_calls=[call("pay", {"to": "Ü"}, index=0, id=7)]),
         Chunk(extra={"delta": {"tool_calls": [call("pay", '{"to":"Ü"}', index=0, id="7")]}})),
        (delta(function_call={"name": "pay", "arguments": {}}),
         Chunk(extra={"delta": {"function_call": {"name": "pay", "arguments": "{}"}}})),
        ({"index": 0, "delta": {"content": "Hello"}, "logprobs": ["x"]}, Chunk(0, "Hello")),
        ({"index": 0, "delta": {"content": "Hello"}, "logprobs": {"content": [{"logprob": 1}]}}, Chunk(0, "Hello")),
    ],
)  # fmt: skip
def test_unusual_deltas_are_converted_to_openais_format(choice: dict[str, Any], chunk: Chunk) -> None:
    (received,), failure = read(choice)
    assert (received, failure) == (chunk, "")
    assert (received.raw == b"") == (received.extra.get("delta") != {"reasoning": "so"}), "it is not sent on as it came"


def test_tool_calls_without_index_are_numbered_per_choice() -> None:
    pieces = [call("pay", '{"a', id="a"), call("", '":1}'), call("see", "{}", id="b"), call("go", "{}"), call("", "")]
    other = {"index": 1, "delta": {"tool_calls": [call("pay", "{}")]}}
    chunks, failure = read(*(delta(tool_calls=[piece]) for piece in pieces), other)
    numbers = [piece["index"] for chunk in chunks for piece in chunk.extra["delta"]["tool_calls"]]
    assert (numbers, failure) == ([0, 0, 1, 2, 2, 0], "")


def test_cached_tokens_are_limited_to_prompt_tokens() -> None:
    (received,) = EventReader().read(event(usage(cached_tokens=50)))
    assert received.usage == Usage(20, 2, 20)


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"index": -1, "delta": {"content": "x"}}, "an event of its stream cannot be read: b'{"),
        ({"index": 2**40, "delta": {"content": "x"}}, "an event of its stream cannot be read: b'{"),
        (delta(content=7), "content is neither text nor parts"),
        (delta(tool_calls=["x"]), "a tool call is no object"),
        (delta(tool_calls=[{"id": [], "index": 0}]), "a tool call's id is no text"),
        (delta(tool_calls=[{"index": -1}]), "a tool call's index is no number from 0"),
        (delta(tool_calls=[{"index": True}]), "a tool call's index is no number from 0"),
        (delta(tool_calls=[{"function": "pay"}]), "a called function is no object"),
        (delta(tool_calls=[call("pay", 7)]), "a called function's name and arguments are no texts"),
        (delta(function_call="pay"), "a called function is no object"),
        (delta(reasoning=7), "reasoning is no text"),
        (delta(reasoning_content=["x"]), "reasoning_content is no text"),
        (delta(refusal={}), "refusal is no text"),
    ],
)
def test_an_unusable_delta_ends_the_stream_with_an_error(choice: dict[str, Any], why: str) -> None:
    chunks, failure = read(delta(content="Hello"), choice)
    assert [received.content for received in chunks] == ["Hello"]
    assert why in failure


@pytest.mark.parametrize(
    ("error", "failure", "known"),
    [
        (5, "5", {}),
        ({"message": "no", "code": 400, "param": "n"}, "no", {"code": 400, "param": "n"}),
        ({"message": {"a": 1}, "param": ["n"]}, '{"message": {"a": 1}, "param": ["n"]}', {"code": None, "param": None}),
        ({"type": "overloaded"}, '{"type": "overloaded"}', {"code": None, "param": None}),
    ],
)
def test_an_error_in_the_stream_of_any_form_has_a_message(error: Any, failure: str, known: Any) -> None:
    reader = EventReader()
    assert reader.read(event({"error": error})) == ()
    assert (reader.failure, reader.error) == (failure, known)


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with opening_client(gateway) as client:
        yield client


def spoken(index: Any, **delta: Any) -> Step:
    return {**chunk(""), "choices": [{"index": index, "delta": delta, "finish_reason": None}]}


async def test_clients_get_chunks_of_the_published_type(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    calls = [spoken(0, tool_calls=call("pay", {"to": "Ann"}, id=1)), spoken(0, tool_calls=[call("see", "{}", id="b")])]
    engine.says(
        spoken(None, role="assistant", content=PARTS), spoken(None, content=PARTS), *calls,
        chunk("", finish="tool_calls"), usage(cached_tokens=500), DONE,
    )  # fmt: skip
    for model in ("path:small_talk", "auto"):
        asked: dict[str, Any] = {"model": model, "messages": USER}
        whole = await http.post("/v1/chat/completions", json=asked)
        shapes.chat_completion(whole.json())
        message = whole.json()["choices"][0]["message"]
        calls_made = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
        assert (message["content"], calls_made) == ("HelloHello", [("1", "pay", '{"to":"Ann"}'), ("b", "see", "{}")])
        async with client.chat.completions.stream(**asked) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == "HelloHello"
        called = final.choices[0].message.tool_calls or []
        assert [(c.id, c.function.name, c.function.arguments) for c in called] == calls_made


@pytest.mark.parametrize("model", ["path:small_talk", "auto"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_cannot_be_encoded_is_an_internal_error(
    http: httpx.AsyncClient, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, model: str, stream: bool
) -> None:
    def broken(*_: object) -> bytes:
        raise TypeError("nobody foresaw this")

    engine.says(*answer("Hello"))
    asked = {"model": model, "messages": USER, "stream": stream}
    with monkeypatch.context() as patch:
        patch.setattr(ChatEncoder, "encode_end" if stream else "encode_whole", broken)
        got = await http.post("/v1/chat/completions", json=asked)
    assert got.status_code == (200 if stream else 500)
    assert '"code":"internal"' in got.text
    assert (await http.post("/v1/chat/completions", json=asked)).status_code == 200


@pytest.mark.parametrize("field", ["reasoning_details", "citations"])
async def test_messages_ignores_details_that_are_no_list(
    http: httpx.AsyncClient, engine: ScriptedEngine, field: str
) -> None:
    details: dict[str, Any] = {field: 5}
    engine.says(chunk("Hello", **details), chunk("", finish="stop"), usage(), DONE)
    asked = {"model": "tiny", "max_tokens": 9, "messages": USER}
    plain = await http.post("/v1/messages", json=asked)
    assert (plain.status_code, plain.json()["content"]) == (200, [{"type": "text", "text": "Hello"}])
    streamed = await http.post("/v1/messages", json={**asked, "stream": True})
    assert "message_stop" in streamed.text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[" * 66 + b"]" * 66 + b"[]" * 99, True),
        (b"[" * 65 + b"]" * 65 + b"[]" * 99, False),
        (b'{"a":' * 66 + b"1" + b"}" * 66 + b"[]" * 99, True),
        (b'["' + b"[" * 99 + b'\\"[\\\\"]' + b"[]" * 99, False),
        (b"[" + b'"a",' * 50_000 + b"[" * 99, True),
    ],
    ids=["too deep", "as deep as allowed", "objects", "brackets in a text", "deep after a long beginning"],
)
def test_levels_are_counted_outside_texts(data: bytes, expected: bool) -> None:
    assert is_deep(data, events=1) is expected
