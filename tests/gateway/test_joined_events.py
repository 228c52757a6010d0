"""A plain answer is the same however many of the engine's events arrive at once."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from pointsman_gateway.codec.choices import REASONING_KEYS, collect_choices
from pointsman_gateway.domain import Chunk
from pointsman_gateway.engines.dialects.anthropic.events import MessagesReader
from pointsman_gateway.engines.dialects.openai.events import EventReader

from tests.cpu_time import cpu_seconds

USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
DONE = b"data: [DONE]\n\n"
A_TEXT = b'{"choices": [{"delta": {"content": "a"}}]}'


def event(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}


def written(*events: dict[str, Any]) -> bytes:
    return b"".join([b"data: " + json.dumps(each).encode() + b"\n\n" for each in events])


def events_of_words(*words: str) -> list[dict[str, Any]]:
    return [event({"role": "assistant", "content": ""}), *(event({"content": word}) for word in words)]


def summed_up(reader: EventReader, chunks: tuple[Chunk, ...]) -> tuple[Any, ...]:
    """Returns everything that a client gets of a plain answer."""
    pieces = sum(chunk.event_count for chunk in chunks if chunk.content or chunk.extra)
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    first = next((chunk.raw for chunk in chunks if chunk.raw), b"")
    choices = collect_choices([chunk for chunk in chunks if chunk.usage is None])
    return choices, pieces, usages, first, reader.done, reader.failure


def read_at_once(stream: bytes, *, as_a_whole: bool) -> tuple[Any, ...]:
    reader = EventReader(as_a_whole, choices=2)
    return summed_up(reader, reader.read(stream))


def test_texts_that_arrive_together_form_one_chunk() -> None:
    ended = event({}, finish_reason="stop")
    read = EventReader(as_a_whole=True).read(written(*events_of_words("one", " two", " three"), ended, USAGE) + DONE)
    assert [(chunk.content, chunk.event_count, chunk.finish_reason) for chunk in read] == [
        ("one two three", 3, None),
        ("", 1, "stop"),
        ("", 1, None),
    ]
    assert json.loads(read[0].raw) == event({"content": "one"})


def test_in_a_stream_each_event_stays_separate() -> None:
    read = EventReader().read(written(*events_of_words("one", " two", " three"), USAGE) + DONE)
    assert [chunk.content for chunk in read] == ["one", " two", " three", ""]
    assert [chunk.event_count for chunk in read] == [1, 1, 1, 1]


FUNCTIONS = some.sampled_from(
    [{"arguments": "{"}, {"arguments": "}"}, {"name": "f", "arguments": ""}, {"name": None, "arguments": None}, {}]
)
CALLS = some.fixed_dictionaries(
    {"index": some.sampled_from([0, 0, 1]), "function": FUNCTIONS},
    optional={"id": some.sampled_from(["c1", "c2", None, ""]), "type": some.just("function")},
)
DELTAS: some.SearchStrategy[dict[str, Any]] = some.one_of(
    some.text(max_size=5).map(lambda text: {"content": text}),
    some.sampled_from(
        [{"role": "assistant", "content": ""}, {"content": None}, {"reasoning": "so"}, {"tool_calls": [{}]}, {}]
    ),
    some.sampled_from([{"reasoning": "so"}, {"reasoning_content": "be"}, {"reasoning": "it", "content": "."}]),
    some.builds(lambda *calls: {"tool_calls": list(calls)}, CALLS),
    some.builds(lambda *calls: {"tool_calls": list(calls)}, CALLS, CALLS),
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
    for stream in (
        written(*events),
        written(*events_of_words(*words), *events[:3]) + DONE,
        written(*events_of_words(*words), USAGE) + DONE,
    ):
        assert read_at_once(stream, as_a_whole=True) == read_at_once(stream, as_a_whole=False)


def in_order(chunks: Iterable[Chunk]) -> list[tuple[str, str]]:
    """Returns the texts of an answer in the order in which they begin, like Anthropic's content blocks."""
    texts: list[tuple[str, str]] = []
    for chunk in chunks:
        delta = chunk.extra.get("delta", {})
        said = [("content", chunk.content), *((name, delta.get(name, "")) for name in REASONING_KEYS)]
        for call in delta.get("tool_calls", ()):
            function = call.get("function") or {}
            said.append((f"call {chunk.index} {call['index']}", function.get("arguments") or ""))
        for name, text in said:
            if texts and texts[-1][0] == name:
                texts[-1] = (name, texts[-1][1] + text)
            elif text:
                texts.append((name, text))
    return texts


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(events=some.lists(EVENTS, max_size=12), cut=some.integers(min_value=0, max_value=12))
def test_joined_events_keep_their_order_over_several_reads(events: list[dict[str, Any]], cut: int) -> None:
    joining, separate = EventReader(as_a_whole=True, choices=2), EventReader(choices=2)
    joined, single = [[*r.read(written(*events[:cut])), *r.read(written(*events[cut:]))] for r in (joining, separate)]
    assert in_order(joined) == in_order(single)
    assert summed_up(joining, tuple(joined)) == summed_up(separate, tuple(single))


@pytest.mark.parametrize("delta", [{"tool_calls": [{"index": 0, "function": {"arguments": "a"}}]}, {"reasoning": "a"}])
def test_pieces_of_reasoning_and_arguments_that_arrive_together_form_one_chunk(delta: dict[str, Any]) -> None:
    (chunk,) = EventReader(as_a_whole=True).read(written(*[event(delta)] * 100))
    assert chunk.event_count == 100
    assert "a" * 100 in json.dumps(chunk.extra)


def test_thinking_that_arrives_together_forms_one_chunk_in_anthropics_dialect() -> None:
    begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
    thought = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "a"}}
    (chunk,) = MessagesReader(as_a_whole=True).read(written(begun, *[thought] * 100))
    assert (chunk.extra, chunk.event_count) == ({"delta": {"reasoning_content": "a" * 100}}, 100)


def test_only_the_events_that_are_read_later_are_kept() -> None:
    reader, ended = EventReader(as_a_whole=True), event({}, finish_reason="stop")
    chunks = [chunk for one in (*events_of_words("one", "two"), ended) for chunk in reader.read(written(one))]
    assert [bool(chunk.raw) for chunk in chunks] == [True, False, True]


@pytest.mark.parametrize(
    "wrong",
    [b"data: {\n\n", b"data: %b,%b\n\n" % (A_TEXT, A_TEXT), b"data: \xff\n\n", b"data: 7\n\n", DONE],
)
@pytest.mark.parametrize("place", range(7))
def test_an_invalid_event_ends_both_at_the_same_place(wrong: bytes, place: int) -> None:
    events = [written(each) for each in (*events_of_words("one", " two", " three", " four"), USAGE)]
    stream = b"".join([*events[:place], wrong, *events[place:]]) + DONE
    assert read_at_once(stream, as_a_whole=True) == read_at_once(stream, as_a_whole=False)


def test_joining_takes_linear_time() -> None:
    piece = written(event({"tool_calls": [{"index": 0, "function": {"arguments": "word " * 4}}]}))

    def seconds(pieces: int) -> float:
        return cpu_seconds(lambda: EventReader(as_a_whole=True).read(piece * pieces))

    assert seconds(8 * 1_000) < 24 * seconds(1_000)
