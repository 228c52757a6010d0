"""The event template gives the same result as the JSON parser for every text."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some
from pointsman_gateway.domain import Chunks
from pointsman_gateway.engines.dialects.openai.events import EventReader

IDENTITY = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, **more}
    return written({**IDENTITY, "choices": [choice]})


def written(data: Any, *, ascii_only: bool = True) -> bytes:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=ascii_only)
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def read_together(events: list[bytes]) -> list[Chunks]:
    reader = EventReader(choices=2)
    return [reader.read(each) for each in events]


def read_apart(events: list[bytes]) -> list[Chunks]:
    """Reads each event with a new reader."""
    return [EventReader(choices=2).read(each) for each in events]


def raw_of(chunks: list[Chunks]) -> list[bytes]:
    return [chunk.raw for each in chunks for chunk in each]


TEXTS = some.text(some.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(texts=some.lists(TEXTS, min_size=2, max_size=8), ascii_only=some.booleans())
def test_any_text_is_parsed_identically(texts: list[str], ascii_only: bool) -> None:
    body = [json.loads(event(text)[6:]) for text in texts]
    events = [written(data, ascii_only=ascii_only) for data in body]
    together = read_together(events)
    assert together == read_apart(events)
    assert raw_of(together) == raw_of(read_apart(events))


def test_events_outside_of_the_template_are_parsed_identically() -> None:
    events = [
        event("one"),
        event(" two"),
        event("", finish_reason="stop"),
        event(" three"),
        event(' four"},"delta":{"content":"five'),
        event(" six", logprobs={"content": []}),
        event(" seven", index=1),
        event(" eight") + event(" nine"),
        event(" ten"),
        written({**IDENTITY, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}),
    ]
    together = read_together(events)
    assert together == read_apart(events)
    assert raw_of(together) == raw_of(read_apart(events))


def test_a_text_elsewhere_is_not_taken_for_the_deltas() -> None:
    def quoting(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        data = {"x": {"delta": {"content": "same"}}, "choices": [choice]}
        return written(data)

    events = [quoting("same"), quoting("other"), quoting("same")]
    assert read_together(events) == read_apart(events)


def test_an_incomplete_event_waits_for_its_rest() -> None:
    whole = [event("one"), event(" two"), event(" three")]
    reader = EventReader(choices=2)
    pieces = [whole[0], whole[1], whole[2][:30], whole[2][30:] + whole[1], whole[0]]
    seen = [chunk.content for piece in pieces for chunk in reader.read(piece)]
    assert seen == ["one", " two", " three", " two", "one"]


def test_invalid_events_are_not_treated_as_text() -> None:
    reader = EventReader(choices=2)
    reader.read(event("one"))
    reader.read(event(" two").replace(b" two", b"\xff"))
    assert reader.failure
