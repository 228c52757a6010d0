"""Limits of a request: on its body, which is checked as bytes before decoding, and on its messages, content parts
and tools.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

_content_of = attrgetter("content")

_STRUCTURE = b'[]{}",'
_TO_DELETE = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_TOOLS = ("tools", "functions")
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_SLICE_BYTES = 256 * 1024
"""Bytes of the slices in which a body is checked. Slices keep copies small, and a body with too many values is rejected
before it is read to its end."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    max_bytes: int = 8 * 1024 * 1024
    max_depth: int = 32
    """Maximum nesting depth of objects and lists."""
    max_containers: int = 16_000
    """Maximum number of objects and lists in the whole body."""
    max_strings: int = 64_000
    """Maximum number of field names and strings in the whole body."""
    max_values: int = 32_000
    """Maximum number of JSON values of any type in the whole body, including numbers, `true`, `false` and `null`. In
    Python each value takes tens of bytes, and up to 1.5 microseconds to decode, mask and encode."""
    max_fields: int = 10_000
    """Maximum number of fields of a gRPC message, including the fields of all messages in it."""
    max_messages: int = 1_000
    max_parts: int = 1_000
    """Maximum number of content parts of all messages together."""
    max_tools: int = 128


LIMITS = BodyLimits()
TOKEN_ID_LIMITS = replace(LIMITS, max_values=320_000)
"""The limits for bodies that may contain token ids. They allow more values, since OpenAI's embeddings endpoint takes
300,000 tokens in a request."""


def check_body(body: bytes, limits: BodyLimits = LIMITS, param: str | None = None) -> None:
    """Checks the bytes of a JSON text before it is decoded, so that the rejection of a too large body costs little.

    Raises InvalidArgument if the bytes are not UTF-8, hold a zero byte, or exceed one of the `limits` on bytes, depth,
    and the numbers of objects and lists, of names and strings, and of values (counted by their commas). Other malformed
    JSON is left to the decoder, whose error messages are more precise. `param` names the parameter that holds the JSON,
    for the error; None if the JSON is the body itself.
    """
    what = f"'{param}'" if param else "the body"
    if len(body) > limits.max_bytes:
        message = f"{what} has {len(body)} bytes; at most {limits.max_bytes}"
        raise InvalidArgument(message, code="body_too_large", param=param)
    # Python's json also reads UTF-16 and UTF-32, in which the bytes counted below mean something else.
    if b"\0" in body or not _is_utf_8(body):
        raise InvalidArgument(f"{what} is not JSON in UTF-8", code="bad_json", param=param)
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
    """Returns (error code, end of the error message) for the first limit that the body exceeds; None if it exceeds
    none.
    """
    if len(body) <= _SLICE_BYTES:
        many_commas = min(limits.max_values, limits.max_strings // 2)  # each is before a value or before two strings
        if body.count(b"{") + body.count(b"[") <= limits.max_depth and body.count(b",") < many_commas:
            return None
    quotation_marks = containers = commas = 0
    brackets = []
    for part in _slices(body):
        if quotation_marks % 2 and b'"' not in part:
            continue  # it is within a string
        # Without escapes each quotation mark begins or ends a string, so every second part between them is a string.
        bare = part.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in part else part
        parts = bare.translate(_AS_LISTS, _TO_DELETE).split(b'"')
        structure = b"".join(parts[quotation_marks % 2 :: 2])
        quotation_marks += len(parts) - 1
        if quotation_marks > 2 * limits.max_strings:
            return "body_too_complex", f"more than {limits.max_strings} names and texts"
        containers += structure.count(b"[")
        if containers > limits.max_containers:
            return "body_too_complex", f"more than {limits.max_containers} objects and lists"
        commas += structure.count(b",")
        if commas >= limits.max_values:  # each value but the first of a container follows a comma
            return "body_too_complex", f"more than {limits.max_values} values"
        brackets.append(structure.translate(None, b","))
    if _is_too_deep(b"".join(brackets), limits.max_depth):
        return "body_too_deep", f"objects and lists too deep within each other; at most {limits.max_depth} deep"
    return None


def _slices(body: bytes) -> Iterator[bytes]:
    """Yields the body in slices of about `_SLICE_BYTES`. No slice ends within an escape sequence."""
    at = 0
    while at < len(body):
        end = at + _SLICE_BYTES
        # An odd number of backslashes before the end would begin an escape.
        if body[end - 1 : end] == b"\\" and (end - len(body[at:end].rstrip(b"\\")) - at) % 2:
            end += 1
        yield body[at:end]
        at = end


def _is_too_deep(brackets: bytes, max_depth: int) -> bool:
    for _ in range(max_depth):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")  # the innermost ones
    return b"[]" in brackets or brackets.count(b"[") > max_depth


def check_counts(messages: Sequence[Any], extra: Mapping[str, Any], limits: BodyLimits = LIMITS) -> None:
    """Raises InvalidArgument if a decoded chat request has too many messages, content parts or tools.

    `messages` are objects with an attribute `content`, which is a list if the content is in parts; `extra` are the
    request's other fields, of which `tools` and `functions` are counted.
    """
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
    """Raises InvalidArgument if `count`, the number of tools in the request's parameter `param`, exceeds
    `limits.max_tools`. The error's code is "too_many_" followed by `param`.
    """
    _check_count(count, limits.max_tools, param, param)


def _check_count(count: int, limit: int, param: str, what: str) -> None:
    if count > limit:
        raise InvalidArgument(f"'{param}' has {count} {what}; at most {limit}", code=f"too_many_{param}", param=param)
