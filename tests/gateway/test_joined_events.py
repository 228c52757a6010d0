"""A plain answer does not depend on how many of the engine's events arrive at once."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from pointsman_gateway.codec.choices import collect_choices
from pointsman_gateway.domain import Chunk
from pointsman_gateway.engines.openai_events import EventReader

USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
DONE = b"data: [DONE]\n\n"
A_TEXT = b'{"choices": [{"delta": {"content": "a"}}]}'


def event(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}


def written(*events: dict[str, Any]) -> bytes:
    return b"".join([b"data: " + json.dumps(each).encode() + b"\n\n" for each in events])


def said(*words: str) -> list[dict[str, Any]]:
    return [event({"role": "assistant", "content": ""}), *(event({"content": word}) for word in words)]


def summed_up(reader: EventReader, chunks: tuple[Chunk, ...]) -> tuple[Any, ...]:
    """Returns everything that a client sees of a plain answer."""
    pieces = sum(chunk.event_count for chunk in chunks if chunk.content or chunk.extra)
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    first = next((chunk.raw for chunk in chunks if chunk.raw), b"")
    choices = collect_choices([chunk for chunk in chunks if chunk.usage is None])
    return choices, pieces, usages, first, reader.done, reader.failure


def read_at_once(stream: bytes, *, as_a_whole: bool) -> tuple[Any, ...]:
    reader = EventReader(as_a_whole)
    return summed_up(reader, reader.read(stream))


def test_texts_that_arrive_together_form_one_chunk() -> None:
    ended = event({}, finish_reason="stop")
    read = EventReader(as_a_whole=True).read(written(*said("one", " two", " three"), ended, USAGE) + DONE)
    assert [(chunk.content, chunk.event_count, chunk.finish_reason) for chunk in read] == [
        ("one two three", 3, None),
        ("", 1, "stop"),
        ("", 1, None),
    ]
    assert json.loads(read[0].raw) == event({"content": "one"})


def test_in_a_stream_each_event_stays_separate() -> None:
    read = EventReader().read(written(*said("one", " two", " three"), USAGE) + DONE)
    assert [chunk.content for chunk in read] == ["one", " two", " three", ""]
    assert [chunk.event_count for chunk in read] == [1, 1, 1, 1]


DELTAS: some.SearchStrategy[dict[str, Any]] = some.one_of(
    some.text(max_size=5).map(lambda text: {"content": text}),
    some.sampled_from(
        [{"role": "assistant", "content": ""}, {"content": None}, {"reasoning": "so"}, {"tool_calls": [{}]}, {}]
    ),
)
EVENTS = some.one_of(
    DELTAS.map(event),
    DELTAS.map(lambda delta: event(delta, finish_reason="stop")),
    DELTAS.map(lambda delta: event(delta, index=1)),
    DELTAS.map(lambda delta: event(delta, logprobs={"content": [{"token": "a"}]})),
    some.sampled_from([USAGE, {"choices": []}, {"error": {"message": "no"}}, event({}) | {"choices": None}]),
)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(events=some.lists(EVENTS, min_size=4, max_size=9), words=some.lists(some.text(max_size=3), max_size=9))
def test_joined_and_separate_events_give_the_same_answer(events: list[dict[str, Any]], words: list[str]) -> None:
    for stream in (written(*events), written(*said(*words), *events[:3]) + DONE, written(*said(*words), USAGE) + DONE):
        assert read_at_once(stream, as_a_whole=True) == read_at_once(stream, as_a_whole=False)


@pytest.mark.parametrize(
    "wrong",
    [b"data: {\n\n", b"data: %b,%b\n\n" % (A_TEXT, A_TEXT), b"data: \xff\n\n", b"data: 7\n\n", DONE],
)
@pytest.mark.parametrize("place", range(7))
def test_an_invalid_event_ends_both_at_the_same_place(wrong: bytes, place: int) -> None:
    events = [written(each) for each in (*said("one", " two", " three", " four"), USAGE)]
    stream = b"".join([*events[:place], wrong, *events[place:]]) + DONE
    assert read_at_once(stream, as_a_whole=True) == read_at_once(stream, as_a_whole=False)
