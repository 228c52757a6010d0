"""The chunks of an answer are joined to choices in linear time."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_gateway.codec.choices import collect_choices
from pointsman_gateway.domain import Chunk

LEAVES = st.sampled_from([None, 1, "", "a", "bc", [], [1], [2, 3]])
OBJECTS = st.dictionaries(st.sampled_from("ab"), LEAVES, max_size=2)
VALUES = LEAVES | OBJECTS | st.dictionaries(st.sampled_from("ab"), OBJECTS, max_size=2)


def joined_one_by_one(known: Any, delta: Any) -> Any:
    """Returns the joined value of a field, if its parts arrive one after the other; the simple definition that the code
    is compared with.
    """
    if isinstance(known, str) and isinstance(delta, str):
        return known + delta
    if isinstance(known, list) and isinstance(delta, list):
        return [*known, *delta]
    if isinstance(known, dict) and isinstance(delta, dict):
        return {**known, **{name: joined_one_by_one(known.get(name), value) for name, value in delta.items()}}
    return delta


@given(st.lists(st.dictionaries(st.sampled_from(["reasoning", "annotations"]), VALUES, max_size=2), max_size=8))
def test_fields_are_joined_as_if_one_delta_came_after_the_other(deltas: list[dict[str, Any]]) -> None:
    expected: dict[str, Any] = {}
    for delta in deltas:
        for name, value in delta.items():
            expected[name] = joined_one_by_one(expected.get(name), value)
    (choice,) = collect_choices([Chunk(content="x"), *(Chunk(extra={"delta": delta}) for delta in deltas)])
    assert choice.message == expected
    assert list(choice.message) == list(expected)


def test_tool_calls_are_joined_from_their_pieces() -> None:
    calls = [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "look", "arguments": ""}},
        {"index": 1, "id": "c1", "function": {"name": "up"}},
        {"index": 0, "id": None, "function": {"name": None, "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
        {"index": 1, "function": None},
    ]
    (choice,) = collect_choices([Chunk(extra={"delta": {"tool_calls": [call]}}) for call in calls])
    assert choice.message["tool_calls"] == [
        {"id": "c0", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}},
        {"id": "c1", "type": "function", "function": {"name": "up", "arguments": ""}},
    ]


DELTAS: dict[str, Any] = {
    "arguments": {"tool_calls": [{"index": 0, "function": {"arguments": "word " * 8}}]},
    "reasoning": {"reasoning": "word " * 8},
    "a list": {"annotations": [{"type": "x"}]},
    "an object": {"audio": {"data": "word " * 8}},
}


@pytest.mark.parametrize("delta", DELTAS)
def test_ten_times_as_many_pieces_take_about_ten_times_as_long(delta: str) -> None:
    def seconds(pieces: int) -> float:
        chunks, began = [Chunk(extra={"delta": DELTAS[delta]})] * pieces, time.process_time()
        collect_choices(chunks)
        return time.process_time() - began

    few, many = (min(seconds(pieces) for _ in range(3)) for pieces in (20_000, 200_000))
    assert many < 40 * few
