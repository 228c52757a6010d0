"""Limits of a request: of its body, checked on the bytes before they are decoded, and of decoded values.

JSON values that cannot be passed on to an engine are rejected: lone surrogates and non-finite numbers. JSON can write
half of a surrogate pair ("\\ud800"), which no UTF-8 text can hold. Python's decoder also reads NaN, Infinity and
numbers out of range such as 1e999, which JSON does not have.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class BodyLimits:
    max_bytes: int = 8 * 1024 * 1024
    max_depth: int = 32
    """Levels of objects and lists within each other."""
    max_containers: int = 100_000
    """Objects and lists in the whole body."""
    max_strings: int = 200_000
    """Names and strings in the whole body."""
    max_values: int = 320_000
    """JSON values of any type in the whole body, including numbers, `true`, `false` and `null`. The largest legitimate
    bodies are those for OpenAI's embeddings endpoint, which takes 300,000 tokens a request."""
    max_fields: int = 10_000
    """Fields of a gRPC message and of all messages in it together."""
    max_messages: int = 1_000
    max_parts: int = 1_000
    """Content parts of all messages together."""
    max_tools: int = 128


LIMITS = BodyLimits()

_content_of = attrgetter("content")

_STRUCTURE = b'[]{}",'
_TO_DELETE = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_TOOLS = ("tools", "functions")
_AS_LISTS = bytes.maketrans(b"{}", b"[]")


def check_body(body: bytes, limits: BodyLimits = LIMITS, param: str | None = None) -> None:
    """Raises InvalidArgument if the JSON is too long, too deep, has too many values, or is not UTF-8.

    Other malformed JSON passes: the decoder describes it better. The check takes less than a microsecond for a body
    with few values, and otherwise about as long as copying the body a few times. `param` names the parameter that
    holds the JSON, unless the JSON is the body itself.
    """
    what = f"'{param}'" if param else "the body"
    if len(body) > limits.max_bytes:
        message = f"{what} has {len(body)} bytes; at most {limits.max_bytes}"
        raise InvalidArgument(message, code="body_too_large", param=param)
    # Python's json also reads UTF-16 and UTF-32, in which the bytes counted below mean something else.
    if b"\0" in body or not _is_utf_8(body):
        raise InvalidArgument(f"{what} is not JSON in UTF-8", code="bad_json", param=param)
    if body.count(b"{") + body.count(b"[") > limits.max_depth or body.count(b",") >= limits.max_strings:
        broken = _broken_limit(body, limits)
        if broken:
            code, message = broken
            raise InvalidArgument(f"{what} has {message}", code=code, param=param)


def _is_utf_8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _broken_limit(body: bytes, limits: BodyLimits) -> tuple[str, str] | None:
    """Returns the error code and message for the first limit that the body exceeds; None if it exceeds none."""
    # Without escapes each quotation mark begins or ends a string, so every second part between them is a string.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    bare = bare.translate(_AS_LISTS, _TO_DELETE)
    if bare.count(b'"') > 2 * limits.max_strings:
        return "body_too_complex", f"more than {limits.max_strings} names and texts"
    structure = b"".join(bare.split(b'"')[::2])
    containers, commas = structure.count(b"["), structure.count(b",")
    if containers > limits.max_containers:
        return "body_too_complex", f"{containers} objects and lists; at most {limits.max_containers}"
    if commas >= limits.max_values:  # each value but the first of a container follows a comma
        return "body_too_complex", f"more than {limits.max_values} values"
    lists = structure.translate(None, b",")
    for _ in range(limits.max_depth):
        if b"[]" not in lists:
            break
        lists = lists.replace(b"[]", b"")  # the innermost ones
    if b"[]" in lists or lists.count(b"[") > limits.max_depth:
        return "body_too_deep", f"objects and lists too deep within each other; at most {limits.max_depth} deep"
    return None


def check_counts(messages: Sequence[Any], extra: Mapping[str, Any], limits: BodyLimits = LIMITS) -> None:
    """Checks how many messages, content parts and tools a decoded chat request has. Raises InvalidArgument."""
    if len(messages) > limits.max_messages:
        _check_count(len(messages), limits.max_messages, "messages", "messages")
    if list in map(type, map(_content_of, messages)):
        parts = [message.content for message in messages if type(message.content) is list]
        _check_count(sum(map(len, parts)), limits.max_parts, "messages", "content parts")
    if extra:
        for name in _TOOLS:
            tools = extra.get(name)
            if isinstance(tools, list):
                check_tool_count(len(tools), name, limits)


def check_tool_count(count: int, param: str = "tools", limits: BodyLimits = LIMITS) -> None:
    """Raises InvalidArgument if a request has too many tools."""
    _check_count(count, limits.max_tools, param, param)


def _check_count(count: int, limit: int, param: str, what: str) -> None:
    if count > limit:
        raise InvalidArgument(f"'{param}' has {count} {what}; at most {limit}", code=f"too_many_{param}", param=param)


MAX_NAME_CHARACTERS = 100
"""Characters of a field's name that an error message repeats."""

_encode_finite = json.JSONEncoder(allow_nan=False, check_circular=False).encode
_encode_text = msgspec.json.Encoder().encode


def reject_non_finite(data: Any, path: str = "") -> None:
    """Raises InvalidArgument if decoded JSON holds a number that is NaN or infinite; `path` is the path of `data`."""
    try:
        _encode_finite(data)
    except ValueError as error:
        param = find_json_path(data, _is_non_finite, path) or path
        message = f"'{param}' is no number that JSON has: neither NaN nor infinite, and at most about 1.8e308"
        raise InvalidArgument(message, code="bad_parameter", param=param) from error


def reject_surrogates(data: Any, path: str = "") -> None:
    """Raises InvalidArgument if decoded JSON holds a lone surrogate in a name or a string; `path` is that of `data`."""
    try:
        _encode_text(data)
    except UnicodeEncodeError as error:
        param = find_json_path(data, _has_surrogate, path) or None
        where = f"'{param}'" if param else "the body"
        raise InvalidArgument(f"{where} holds half a character", code="bad_text", param=param) from error


def find_json_path(data: Any, is_wrong: Callable[[Any], bool], path: str = "") -> str | None:
    """Returns the path of the first wrong name, string or number, as "messages[0].content"; None if all are right.

    For a wrong name it is the path of its object. `path` is the path of `data` itself. The time is linear in the size
    of `data`.
    """
    steps = _find_steps(data, is_wrong)
    if steps is None:
        return None
    for step in reversed(steps):
        path += f"[{step}]" if isinstance(step, int) else f"{'.' if path else ''}{step[:MAX_NAME_CHARACTERS]}"
    return path


def _find_steps(data: Any, is_wrong: Callable[[Any], bool]) -> list[int | str] | None:
    """Returns the names and indexes that lead to the first wrong value, from the innermost to the outermost."""
    members: Iterable[tuple[int | str, Any]]
    if isinstance(data, dict):
        if any(map(is_wrong, data)):
            return []
        members = data.items()
    elif isinstance(data, list):
        members = enumerate(data)
    else:
        return [] if is_wrong(data) else None
    for step, value in members:
        if isinstance(value, (list, dict)):
            steps = _find_steps(value, is_wrong)
            if steps is not None:
                return [*steps, step]
        elif is_wrong(value):
            return [step]
    return None


def _is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _has_surrogate(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
