"""What a request's body may be, found out before it is decoded, and of what it may hold how many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class BodyLimits:
    bytes: int = 8 * 1024 * 1024
    depth: int = 32
    """Of objects and lists within each other."""
    values: int = 100_000
    """Objects and lists, all together."""
    strings: int = 200_000
    """Names and texts, all together."""
    messages: int = 1_000
    parts: int = 1_000
    """Of all messages' contents together."""
    tools: int = 128


LIMITS = BodyLimits()

_STRUCTURE = b'[]{}"'
_TO_DELETE = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_TOOLS = ("tools", "functions")
_AS_LISTS = bytes.maketrans(b"{}", b"[]")


def check_body(body: bytes, limits: BodyLimits = LIMITS, param: str | None = None) -> None:
    """Raises InvalidArgument where the JSON is too long, too deep or has too many parts.

    What is no JSON may pass: the decoder tells better what is wrong with it. Takes less than a microsecond where there
    are few objects and lists in all, else as long as copying the body a few times. `param` holds it, if not the body.
    """
    what = f"'{param}'" if param else "the body"
    if len(body) > limits.bytes:
        told = f"{what} has {len(body)} bytes; at most {limits.bytes}"
        raise InvalidArgument(told, code="body_too_large", param=param)
    if body.count(b"{") + body.count(b"[") > limits.depth:
        complaint = _complaint(body, limits)
        if complaint:
            code, told = complaint
            raise InvalidArgument(f"{what} has {told}", code=code, param=param)


def _complaint(body: bytes, limits: BodyLimits) -> tuple[str, str] | None:
    """A code, and in words what there is too much of."""
    # Without escapes a quotation mark begins or ends a string; what stands between two of them is text.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_AS_LISTS, _TO_DELETE)
    if bare.count(b'"') > 2 * limits.strings:
        return "body_too_complex", f"more than {limits.strings} names and texts"
    lists = b"".join(bare.split(b'"')[::2])
    values = lists.count(b"[")
    if values > limits.values:
        return "body_too_complex", f"{values} objects and lists; at most {limits.values}"
    for _ in range(limits.depth):
        if b"[]" not in lists:
            break
        lists = lists.replace(b"[]", b"")  # the innermost ones
    if b"[]" in lists or lists.count(b"[") > limits.depth:
        return "body_too_deep", f"objects and lists too deep within each other; at most {limits.depth} deep"
    return None


def check_counts(messages: Sequence[Any], beside: Mapping[str, Any], limits: BodyLimits = LIMITS) -> None:
    """Of a decoded chat request: its messages, whose `content` may have parts, and what it says beside them.

    Raises InvalidArgument.
    """
    _at_most(len(messages), limits.messages, "messages", "messages")
    parts = sum([len(message.content) for message in messages if type(message.content) is list])
    _at_most(parts, limits.parts, "messages", "content parts")
    for name in _TOOLS:
        tools = beside.get(name)
        if isinstance(tools, list):
            _at_most(len(tools), limits.tools, name, name)


def _at_most(count: int, most: int, param: str, what: str) -> None:
    if count > most:
        raise InvalidArgument(f"'{param}' has {count} {what}; at most {most}", code=f"too_many_{param}", param=param)
