"""Streams of Anthropic's Messages API: they are read in any pieces, and a malformed event is the engine's failure."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from pointsman_gateway.domain import Chunk, TokenDetails, Usage
from pointsman_gateway.engines.dialects.anthropic.events import MessagesReader
from pointsman_gateway.engines.dialects.openai.events import EventReader
from pointsman_gateway.engines.stream_lines import MAX_LINE_BYTES, split_lines

from tests.gateway.doubles.anthropic_api import (
    HELLO,
    Anthropic,
    Event,
    ask,
    block,
    ended,
    running_anthropic,
    site,
    started,
    text,
    written,
)
from tests.gateway.doubles.gateway import Neighbours

SIGNATURE = {"type": "reasoning.text", "signature": "x", "format": "anthropic-claude-v1", "index": 0}
SECRET = {"type": "reasoning.encrypted", "data": "y", "format": "anthropic-claude-v1", "index": 1}


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


def test_a_stream_may_arrive_in_any_pieces() -> None:
    thinking = block(
        0, "thinking", {"type": "thinking_delta", "thinking": "Hm"}, {"type": "signature_delta", "signature": "x"}
    )
    hidden = block(1, "redacted_thinking", data="y")
    future = block(2, "hologram", {"type": "hologram_delta", "text": "?"}, text="?")
    events = [started(), {"type": "news"}, *thinking, *hidden, *future, *text("Grüße", index=3)]
    whole = written([*events, *ended("max_tokens", 7)])
    expected = [
        Chunk(extra={"delta": {"reasoning_content": "Hm"}}),
        Chunk(extra={"delta": {"reasoning_details": [SIGNATURE]}}),
        Chunk(extra={"delta": {"reasoning_details": [SECRET]}}),
        Chunk(content="Grüße"), Chunk(finish_reason="length"),
        Chunk(usage=Usage(20, 7, 6, details=TokenDetails(cache_write=4))),
    ]  # fmt: skip
    estimate = Chunk(usage=Usage(20, 1, 6, details=TokenDetails(cache_write=4, is_estimate=True)))
    for size in (1, 7, len(whole)):
        reader = MessagesReader()
        chunks = [one for at in range(0, len(whole), size) for one in reader.read(whole[at : at + size])]
        early = [] if size == len(whole) else [estimate]  # with the first chunk
        assert (chunks, reader.done, reader.failure) == ([expected[0], *early, *expected[1:]], True, "")


def test_a_call_may_begin_with_its_whole_input() -> None:
    call = block(0, "tool_use", id="c", name="f", input={"city": "Oslo"})
    (chunk,) = MessagesReader().read(written(call))
    (found,) = chunk.extra["delta"]["tool_calls"]
    assert found["function"] == {"name": "f", "arguments": '{"city": "Oslo"}'}


def test_deltas_of_a_block_that_is_not_shown_are_skipped() -> None:
    reader = MessagesReader()
    searching = block(0, "server_tool_use", {"type": "input_json_delta", "partial_json": "{}"}, id="s", name="search")
    assert (reader.read(written(searching)), reader.failure) == ((), "")


def delta(**fields: Any) -> Event:
    return {"type": "content_block_delta", "index": 0, "delta": fields}


def begun(kind: str, **fields: Any) -> Event:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **fields}}


MALFORMED: Mapping[str, Event] = {
    "an error that is a number": {"type": "error", "error": 5},
    "an error's message": {"type": "error", "error": {"type": "api_error", "message": {"a": 1}}},
    "a text": delta(type="text_delta", text=12345),
    "thinking": delta(type="thinking_delta", thinking=["a"]),
    "a signature": delta(type="signature_delta", signature=5),
    "arguments": delta(type="input_json_delta", partial_json={"a": 1}),
    "no delta": {"type": "content_block_delta", "index": 0},
    "a delta's type": delta(type=5, text="a"),
    "an index": {"type": "content_block_delta", "index": "0", "delta": {"type": "text_delta", "text": "a"}},
    "a block that has not begun": {**delta(type="text_delta", text="a"), "index": 9},
    "a first text": begun("text", text=12345),
    "a tool's name": begun("tool_use", id="a", name=5, input={}),
    "a tool's id": begun("tool_use", id=5, name="f", input={}),
    "no tool's name": begun("tool_use", id="a", input={}),
    "a tool's input": begun("tool_use", id="a", name="f", input=["x"]),
    "encrypted thinking": begun("redacted_thinking", data=5),
    "a stop reason": {"type": "message_delta", "delta": {"stop_reason": 5}},
    "a stop sequence": {"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": 5}},
    "usage": {"type": "message_delta", "delta": {}, "usage": {"output_tokens": "2"}},
    "negative usage": {"type": "message_start", "message": {"usage": {"input_tokens": -1}}},
    "a message": {"type": "message_start", "message": "x"},
    "an event's type": {"type": 5},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_value_of_a_wrong_type_makes_the_event_unreadable(name: str) -> None:
    reader = MessagesReader()
    assert reader.read(written([begun("text", text="")])) == ()
    assert reader.read(b"data: %b\n" % json.dumps(MALFORMED[name]).encode()) == ()
    assert reader.failure.startswith("an event of its stream cannot be read")
    assert not reader.done


@pytest.mark.parametrize("event", [b"data: {\n", b"data: 5\n", b"data: \xff\n", b"data: " + b"[" * 10_000 + b"\n"])
def test_an_event_that_cannot_be_read_is_a_failure(event: bytes) -> None:
    reader = MessagesReader()
    assert reader.read(event) == ()
    assert reader.failure.startswith("an event of its stream cannot be read")


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_a_malformed_event_is_the_engines_failure(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    neighbours.config.models["resilience"] = {"breaker": {"enabled": False}, "retries": {"max_retries": 0}}
    async with site(neighbours, anthropic, monkeypatch) as http:
        for name in ("an error that is a number", "a first text", "a tool's name"):
            anthropic.events = [started(), MALFORMED[name]]
            answered = await ask(http, stream=streams)
            assert answered.status_code == 503, answered.text
            assert answered.json()["error"]["code"] == "engine_unavailable"
        anthropic.events = [started(), *text("Hel"), delta(type="text_delta", text=12345)]
        answered = await ask(http, stream=streams)
        assert "cannot be read" in answered.text
        assert '"content":12345' not in answered.text
        assert answered.status_code == (200 if streams else 503)


async def test_a_malformed_answer_falls_back_and_opens_the_breaker(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours.config.models["resilience"] = {"breaker": {"consecutive_failures": 2, "open_duration_seconds": 60}}
    anthropic.events = [started(), MALFORMED["a first text"]]
    async with site(neighbours, anthropic, monkeypatch, fallback=["tiny"]) as http:
        for _ in range(4):
            answered = await ask(http)
            assert (answered.status_code, answered.json()["model"]) == (200, "tiny"), answered.text
        asked = len(anthropic.bodies)
        anthropic.events = HELLO
        assert (await ask(http)).json()["model"] == "tiny"
    assert len(anthropic.bodies) == asked


# -- lines


def test_lines_are_those_of_the_whole_stream() -> None:
    stream = b"a\n\nbc\r\n" + b"d" * 100 + b"\n\ne"
    for size in (1, 2, 3, 50, len(stream)):
        rest = bytearray()
        lines = [line for at in range(0, len(stream), size) for line in split_lines(rest, stream[at : at + size])]
        assert [*lines, bytes(rest)] == stream.split(b"\n")


@pytest.mark.parametrize("reader", [EventReader(), MessagesReader()], ids=["openai", "anthropic"])
def test_a_long_line_in_small_pieces_takes_linear_time(reader: EventReader | MessagesReader) -> None:
    beginning = b'data: {"a": "' + b"x" * (MAX_LINE_BYTES - 20_000)
    reader.read(beginning)
    began = time.process_time()
    for _ in range(2_000):
        reader.read(b"x")
    assert time.process_time() - began < 0.3  # a copy of the line for each piece takes over a second
    assert not reader.failure
    reader.read(b"x" * 20_000)
    assert reader.failure == "a line of the stream is too long"
