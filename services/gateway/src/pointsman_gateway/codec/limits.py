"""Limits on a request's body, checked on its bytes before it is decoded, and on what a decoded chat request holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class BodyLimits:
    bytes: int = 8 * 1024 * 1024
    depth: int = 32
    """Nesting of objects and lists."""
    containers: int = 100_000
    """Objects and lists in the whole body."""
    strings: int = 200_000
    """Names and strings in the whole body."""
    values: int = 320_000
    """JSON values of any kind in the whole body: numbers, `true`, `false` and `null` count, too. OpenAI's embeddings
    endpoint, which has the largest legitimate bodies, takes 300,000 tokens a request."""
    fields: int = 10_000
    """Of a gRPC message and all messages in it."""
    messages: int = 1_000
    parts: int = 1_000
    """Content parts of all messages together."""
    tools: int = 128


LIMITS = BodyLimits()

_STRUCTURE = b'[]{}",'
_TO_DELETE = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_TOOLS = ("tools", "functions")
_AS_LISTS = bytes.maketrans(b"{}", b"[]")


def check_body(body: bytes, limits: BodyLimits = LIMITS, param: str | None = None) -> None:
    """Raises InvalidArgument if the JSON is too long, too deep, has too many values, or is not UTF-8.

    Other malformed JSON passes: the decoder describes it better. The check takes less than a microsecond for a body
    with few values, and otherwise about as long as copying the body a few times. `param` names the parameter that
    holds the JSON, if it is not the body itself.
    """
    what = f"'{param}'" if param else "the body"
    if len(body) > limits.bytes:
        message = f"{what} has {len(body)} bytes; at most {limits.bytes}"
        raise InvalidArgument(message, code="body_too_large", param=param)
    # Python's json also reads UTF-16 and UTF-32, in which the bytes counted below mean something else.
    if b"\0" in body or not _is_utf_8(body):
        raise InvalidArgument(f"{what} is not JSON in UTF-8", code="bad_json", param=param)
    if body.count(b"{") + body.count(b"[") > limits.depth or body.count(b",") >= limits.strings:
        complaint = _complaint(body, limits)
        if complaint:
            code, message = complaint
            raise InvalidArgument(f"{what} has {message}", code=code, param=param)


def _is_utf_8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _complaint(body: bytes, limits: BodyLimits) -> tuple[str, str] | None:
    """The error code and message for the first limit that the body exceeds."""
    # Without escapes each quotation mark begins or ends a string, so every second piece between them is text.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    bare = bare.translate(_AS_LISTS, _TO_DELETE)
    if bare.count(b'"') > 2 * limits.strings:
        return "body_too_complex", f"more than {limits.strings} names and texts"
    structure = b"".join(bare.split(b'"')[::2])
    containers, commas = structure.count(b"["), structure.count(b",")
    if containers > limits.containers:
        return "body_too_complex", f"{containers} objects and lists; at most {limits.containers}"
    if commas >= limits.values:  # each value but the first in its container follows a comma
        return "body_too_complex", f"more than {limits.values} values"
    lists = structure.translate(None, b",")
    for _ in range(limits.depth):
        if b"[]" not in lists:
            break
        lists = lists.replace(b"[]", b"")  # the innermost ones
    if b"[]" in lists or lists.count(b"[") > limits.depth:
        return "body_too_deep", f"objects and lists too deep within each other; at most {limits.depth} deep"
    return None


def check_counts(messages: Sequence[Any], beside: Mapping[str, Any], limits: BodyLimits = LIMITS) -> None:
    """Checks a decoded chat request: its messages, their parts, and its other fields. Raises InvalidArgument."""
    if len(messages) > limits.messages:
        _at_most(len(messages), limits.messages, "messages", "messages")
    parts = [message.content for message in messages if type(message.content) is list]
    if parts:
        _at_most(sum(map(len, parts)), limits.parts, "messages", "content parts")
    for name in _TOOLS if beside else ():
        tools = beside.get(name)
        if isinstance(tools, list):
            _at_most(len(tools), limits.tools, name, name)


def _at_most(count: int, most: int, param: str, what: str) -> None:
    if count > most:
        raise InvalidArgument(f"'{param}' has {count} {what}; at most {most}", code=f"too_many_{param}", param=param)
