"""Lists of token ids in a body are kept as JSON text, and everything else is decoded."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_gateway.codec.token_ids import TokenIds, decode_with_token_ids
from pointsman_servicekit.errors import InvalidArgument

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1)


def body_with(value: Any, **dumps: Any) -> bytes:
    return json.dumps({"model": "m", "input": value, "user": "u"}, **dumps).encode()


def decoded(token_ids: Any) -> list[list[int]]:
    assert isinstance(token_ids, TokenIds)
    return [token_ids.decode(number) for number in range(len(token_ids.counts))]


@given(st.one_of(IDS, st.lists(st.lists(st.integers(0, 2**31 - 1)), min_size=1)), st.sampled_from([None, 1]))
def test_token_ids_are_found_and_decode_to_the_same(value: Any, indent: int | None) -> None:
    found = decode_with_token_ids(body_with(value, indent=indent), "input")
    assert {**found, "input": None} == {"model": "m", "input": None, "user": "u"}
    lists = value if isinstance(value[0], list) else [value]
    assert decoded(found["input"]) == lists
    assert list(found["input"].counts) == [len(ids) for ids in lists]
    assert json.loads(bytes(found["input"].encoded)) == value


@pytest.mark.parametrize(
    "value",
    [
        "text", ["text"], [], 5, None, True, {}, [1, "a"], [1.5], [-1], [1, -2], [True], [None], [2**31], [10**12],
        [[2**31]], [1, [2]], [[1], 2], [[1], 2, [3]], [[[1]]], [[1], [[2]]], [[[1], [2]]], [1e3], [[1], "a"],
        {"a": [1]},
    ],
)  # fmt: skip
def test_anything_else_is_decoded(value: Any) -> None:
    found = decode_with_token_ids(body_with(value), "input")
    assert found == {"model": "m", "input": value, "user": "u"}
    assert type(found["input"]) is type(value)


def test_the_last_of_two_fields_of_one_name_counts() -> None:
    assert decode_with_token_ids(b'{"input": [1], "input": "a"}', "input") == {"input": "a"}
    assert decoded(decode_with_token_ids(b'{"input": "a", "input": [1]}', "input")["input"]) == [[1]]


@pytest.mark.parametrize(
    "text", [b'{"input": [1,,2]}', b'{"input": [01]}', b'{"input": [1', b'{"input": [1]} x', b"", b'{"input": [1 2]}']
)
def test_malformed_json_is_rejected(text: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_with_token_ids(text, "input")
    assert caught.value.code == "bad_json"


@pytest.mark.parametrize("other", ['"\\ud800"', "NaN", "1e999"])
def test_the_other_fields_are_checked_as_always(other: str) -> None:
    with pytest.raises(InvalidArgument):
        decode_with_token_ids(f'{{"input": [1], "user": {other}}}'.encode(), "input")


def test_a_body_that_is_no_object_is_decoded() -> None:
    assert decode_with_token_ids(b"[1, 2]", "input") == [1, 2]


def test_token_ids_are_encoded_as_they_came() -> None:
    found = decode_with_token_ids(b'{"input": [ 1,2 ,3]}', "input")
    assert msgspec.json.encode({"input": found["input"].encoded}) == b'{"input":[ 1,2 ,3]}'
