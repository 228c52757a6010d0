"""The limits of request bodies, and how fast they are checked."""

import json
import random
import time
from dataclasses import dataclass
from typing import Any

import pytest
from pointsman_gateway.codec import limits
from pointsman_gateway.codec.limits import BodyLimits, check_body, check_counts
from pointsman_servicekit.errors import InvalidArgument

SMALL = BodyLimits(max_bytes=100_000, max_depth=5, max_containers=2_000)


def nested(depth: int, *, objects: bool = False) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth if objects else b"[" * depth + b"]" * depth


def refusal(body: bytes, bounds: BodyLimits = SMALL) -> str | None:
    try:
        check_body(body, bounds)
    except InvalidArgument as error:
        return error.code
    return None


@pytest.mark.parametrize("objects", [False, True])
def test_nesting_is_limited(objects: bool) -> None:
    assert refusal(nested(5, objects=objects)) is None
    assert refusal(nested(6, objects=objects)) == "body_too_deep"
    assert refusal(nested(40_000)) == "body_too_complex"
    wide = b"[" + b",".join([nested(4, objects=objects)] * 100) + b"]"
    assert refusal(wide) is None
    assert refusal(b"[" + wide + b"]") == "body_too_deep"


def test_thirty_two_levels_are_allowed_and_the_error_says_so() -> None:
    check_body(nested(32))
    with pytest.raises(InvalidArgument, match="at most 32"):
        check_body(nested(33))


def test_brackets_in_strings_do_not_count() -> None:
    for text in ("[[[[[[[[", 'a "quoted" [[[[[[[', "\\", '\\"[[[[[[[', 'ends with \\"', "[{" * 3000, "\\\\[[[[[[["):
        assert refusal(json.dumps({"messages": [{"content": text}]}).encode()) is None, text


def test_brackets_after_a_string_with_escapes_count() -> None:
    for text in "\\", '"', '\\"', "\\\\", '"\\':
        assert refusal(json.dumps([text, json.loads(nested(5))]).encode()) == "body_too_deep", text


@pytest.mark.parametrize("slice_bytes", [1, 2, 3, 16, 64, limits._SLICE_BYTES])
def test_it_agrees_with_a_decoder_on_random_json(slice_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_SLICE_BYTES", slice_bytes)
    chance = random.Random(7)
    verdicts = set()
    for _ in range(3000):
        value = _random(chance, chance.randint(1, 9))
        body = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode()
        verdict = refusal(body, BodyLimits(max_depth=5))
        assert (verdict == "body_too_deep") == (_depth(value) > 5), body
        verdicts.add(verdict)
    assert verdicts == {None, "body_too_deep"}


@pytest.mark.parametrize("body", [b"", b"[", b"]", b"}{", b'"', b"\\", b"[" * 5, b"]" * 50, b'{"a": [}'])
def test_invalid_json_is_left_to_the_decoder(body: bytes) -> None:
    assert refusal(body) is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_json_in_another_encoding_than_utf_8_is_refused(encoding: str) -> None:
    assert refusal('{"text": "\xe9"}'.encode(encoding)) == "bad_json"
    assert refusal('{"text": "\xe9"}'.encode()) is None


def test_values_of_every_type_count() -> None:
    bounds = BodyLimits(max_values=100, max_strings=50)
    for value in ("1", "null", "true", "[]", "{}", '"a, b"'):
        most = 49 if value.startswith('"') else 100  # "input" is one of the strings
        assert refusal(f'{{"input": [{",".join([value] * most)}]}}'.encode(), bounds) is None, value
        assert refusal(f'{{"input": [{",".join([value] * (most + 1))}]}}'.encode(), bounds) == "body_too_complex", value


def test_commas_in_strings_do_not_count() -> None:
    assert refusal(json.dumps(["," * 90_000]).encode(), BodyLimits(max_values=100, max_strings=50)) is None


@pytest.mark.parametrize("before", [0, 3_000_000])
def test_values_count_at_the_beginning_of_a_long_body_and_at_its_end(before: int) -> None:
    text = json.dumps('a "quoted" [1, 2], \\' * (before // 20)).encode()
    most = b"[" + text + b",1" * 31_999
    assert refusal(most + b"]", BodyLimits()) is None
    assert refusal(most + b',""]', BodyLimits()) == "body_too_complex"
    assert refusal(most + b"," + b"1," * 1_000_000 + b"1]", BodyLimits()) == "body_too_complex"


def test_unclosed_lists_are_too_deep() -> None:
    assert refusal(b"[" * 1000) == "body_too_deep"
    assert refusal(b'[{"a":' * 1000) == "body_too_deep"


def test_lists_are_limited() -> None:
    assert refusal(b'"' + b"x" * 99_998 + b'"') is None
    assert refusal(b'"' + b"x" * 99_999 + b'"') == "body_too_large"


@dataclass(frozen=True)
class Said:
    content: Any = "x"


COUNTS: list[tuple[list[Said], dict[str, Any], str]] = [
    ([Said()] * 1001, {}, "'messages' has 1001 messages; at most 1000"),
    ([Said([{}] * 501)] * 2, {}, "'messages' has 1002 content parts; at most 1000"),
    ([], {"tools": [{}] * 129}, "'tools' has 129 tools; at most 128"),
    ([], {"functions": [{}] * 129}, "'functions' has 129 functions; at most 128"),
]


@pytest.mark.parametrize(("messages", "beside", "message"), COUNTS)
def test_the_number_of_each_kind_is_limited(messages: list[Said], beside: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_counts(messages, beside)
    assert refused.value.message == message


def test_the_maximum_of_each_kind_is_accepted() -> None:
    check_counts([Said([{"type": "text"}])] * 1000, {"tools": [{}] * 128})
    check_counts([Said("x" * 5000), Said(None)], {"tools": "x" * 500, "functions": None})


WORST = {
    "numbers": b"[" + b"1," * 4_000_000 + b"1]",
    "lists": b"[" + b"[]," * 2_700_000 + b"1]",
    "pairs": b"[]" * 4_000_000,
    "strings": b"[]," * 40 + b'"",' * 2_700_000,
    "escapes": b"[]," * 40 + b'"' + b'\\"' * 4_000_000 + b'"',
    "brackets in a text": b'"' + b"[" * 8_000_000 + b'"',
    "deep and many": (nested(32) + b",") * 120_000,
}


@pytest.mark.parametrize("what", WORST)
def test_the_worst_body_of_8_mb_takes_no_longer_than_decoding_a_usual_one(what: str) -> None:
    usual = json.dumps({"messages": [{"role": "user", "content": "x" * 100}] * 60_000})
    assert _seconds(lambda: refusal(WORST[what], BodyLimits())) < 10 * _seconds(lambda: json.loads(usual)) + 0.2


def _seconds(work: Any) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _random(chance: random.Random, depth: int) -> Any:
    kind = chance.random()
    if depth == 0 or kind < 0.2:
        return chance.choice([1, None, "", '"', "\\", "[{", '}"]', "é\\u005b", 'x\\"y'])
    some = [_random(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return some if kind < 0.6 else {f'k"{number}\\': value for number, value in enumerate(some)}


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)
