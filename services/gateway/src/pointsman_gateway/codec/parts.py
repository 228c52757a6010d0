"""Reads content parts of messages in the format of chat completions: their texts and media."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pointsman_gateway.codec.media import (
    MEDIA_PARTS,
    Part,
    may_have_media,
    reject_media_fields,
    reject_unknown_fields,
    to_media_part,
    unsupported,
)

TEXT_PARTS = ("text", "refusal", "thinking")
"""Types of content parts that contain a text. The name of the field with the text is the same as the type."""
_NO_FIELDS: Mapping[str, Any] = {}


def join_texts(texts: Iterable[str]) -> str:
    """Joins the texts of a message's parts with line breaks, as vLLM does."""
    return "\n".join(texts)


def text_of(parts: Iterable[Part]) -> str:
    return join_texts([part["text"] for part in parts if part["type"] == "text"])


def read_parts(
    role: str, parts: Sequence[Mapping[str, Any]], where: str, join: Callable[[Iterable[str]], str] = join_texts
) -> tuple[str, Mapping[str, Any]]:
    """Returns the joined text of a message's content parts, and {"content": the parts, rebuilt from their known fields}
    if there are media among the parts, else {}.

    `role` is the message's role; `where` is the location of the parts in the body, such as "messages[0].content", for
    error messages; `join` joins the texts. Raises InvalidArgument for unknown or invalid parts, and for media in a
    message whose role is not in `MEDIA_ROLES`.
    """
    texts, rebuilt = [], []
    for number, part in enumerate(parts):
        kind = part.get("type")
        if isinstance(kind, str) and kind in MEDIA_PARTS:
            rebuilt.append(_read_media(role, kind, part, f"{where}[{number}]"))
        else:
            texts.append(_read_text(kind, part, f"{where}[{number}]"))
            rebuilt.append({"type": "text", "text": texts[-1]})
    return join(texts), {"content": rebuilt} if len(texts) < len(rebuilt) else _NO_FIELDS


def _read_media(role: str, kind: str, part: Mapping[str, Any], where: str) -> Part:
    medium = to_media_part(kind, part.get(kind), f"{where}.{kind}")
    reject_unknown_fields(part, ("type", kind), where)
    if not may_have_media(role):
        message = f"{where} has type {kind!r}; only messages of the user and of tools may have it, not {role[:50]!r}"
        raise unsupported(message, where)
    return medium


def _read_text(kind: Any, part: Mapping[str, Any], where: str) -> str:
    """Returns the text of a content part of one of the types `TEXT_PARTS`.

    Raises InvalidArgument for another type, if there is no text, or if the part also holds a medium.
    """
    text = part.get(kind) if kind in TEXT_PARTS else None
    if not isinstance(text, str):
        known = ", ".join([*[f'"{name}" with a "{name}"' for name in TEXT_PARTS], *[f'"{n}"' for n in MEDIA_PARTS]])
        raise unsupported(f"{where} has type {str(kind)[:50]!r}; known: {known}", where)
    reject_media_fields(part, ("type", kind), where)
    return text
