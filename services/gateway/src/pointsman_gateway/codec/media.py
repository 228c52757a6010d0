"""Media in messages: which kinds, roles and URLs are accepted, by the same rules for every API.

A part is rebuilt from its known fields, so that an engine gets no field that was not checked. vLLM, for example,
ignores the type of a part that has a `uuid`, and reads the first medium that it finds in it; and it keeps media under
their `uuid` in a cache that all tenants share.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.json_body import MAX_NAME_CHARACTERS
from pointsman_gateway.domain import Message

Part = dict[str, Any]
"""A content part in the format of chat completions."""

MEDIA_ROLES = ("user", "tool")
REMOTE_SCHEMES = ("https:", "http:")
"""The schemes of URLs that an engine has to fetch."""
URL_SCHEMES = ("data:", *REMOTE_SCHEMES)
IGNORED_FIELDS = frozenset({"cache_control", "prompt_cache_breakpoint"})
"""Hints for a cache that clients add to parts; engines do not get them."""


@dataclass(frozen=True, slots=True)
class MediaForm:
    """Where a content part of a type T has its data: {"type": T, T: {`data`: ..., ...}}."""

    medium: str
    data: str = "url"
    """The field with the data: a URL."""
    more: tuple[str, ...] = ()
    """The other fields of the object, which are texts."""
    takes_base64: bool = False
    """Whether the data may also be base64 without a URL around it."""
    expected: str = 'a "url" that begins with "data:", "https:" or "http:"'


MEDIA_PARTS: Mapping[str, MediaForm] = {
    "image_url": MediaForm("image", more=("detail",)),
    "input_audio": MediaForm("audio", "data", ("format",), True, '"data" (base64) and its "format"'),
    "audio_url": MediaForm("audio"),
    "video_url": MediaForm("video"),
    "file": MediaForm("file", "file_data", ("filename",), expected='"file_data", as a "data:" URL; no files are kept'),
}
"""Content parts that are passed on to models that take them, by their types."""
MEDIA = tuple(dict.fromkeys(form.medium for form in MEDIA_PARTS.values()))
_MEDIA_FIELDS = frozenset({*MEDIA_PARTS, "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"})
"""Fields of a part that hold a medium, in any engine."""


def is_media_url(text: str) -> bool:
    return text[:8].lower().startswith(URL_SCHEMES)


def may_have_media(role: str) -> bool:
    """Returns whether messages of this role may have media; each API's decoder rejects media in others."""
    return role in MEDIA_ROLES


def media_of(messages: Iterable[Message]) -> frozenset[str]:
    """Returns the kinds of media in the messages: "image", "audio", "video", "file"; and "url" if the engine has to
    download one of them.
    """
    taken = set()
    for message in messages:
        for part in message.extra.get("content", ()):
            form = MEDIA_PARTS.get(part["type"])
            if form is not None:
                taken.add(form.medium)
                if part[part["type"]][form.data][:6].lower().startswith(REMOTE_SCHEMES):
                    taken.add("url")
    return frozenset(taken)


def to_media_part(kind: str, given: Any, where: str) -> Part:
    """Returns a part of the type `kind` with the known fields of `given`, which is at `where` in the body.

    Raises InvalidArgument if the data is missing or is no accepted URL, or for an unknown field. The data is not
    decoded.
    """
    form = MEDIA_PARTS[kind]
    data = given.get(form.data) if isinstance(given, Mapping) else None
    if not isinstance(data, str) or not (is_media_url(data) or (form.takes_base64 and ":" not in data)):
        raise unsupported(f"{where} must be an object with {form.expected}", where)
    reject_unknown_fields(given, (form.data, *form.more), where)
    value = {form.data: data}
    for name in form.more:
        text = given.get(name)
        if isinstance(text, str):
            value[name] = text
        elif text is not None:
            raise unsupported(f"{where}.{name} must be a string", f"{where}.{name}")
    return {"type": kind, kind: value}


def reject_unknown_fields(fields: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raises InvalidArgument for a field of a media part that is not known, unless it is null or only a hint."""
    for name, value in fields.items():
        if value is not None and name not in known and name not in IGNORED_FIELDS:
            raise _unknown_field(name, known, where)


def reject_media_fields(part: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raises InvalidArgument if a part that is a text also holds a medium, which would be lost."""
    if not _MEDIA_FIELDS.isdisjoint(part):
        for name in _MEDIA_FIELDS.intersection(part):
            if part[name] is not None:
                raise _unknown_field(name, known, where)


def _unknown_field(name: str, known: Iterable[str], where: str) -> InvalidArgument:
    shown = f"{where}.{name[:MAX_NAME_CHARACTERS]}"
    return InvalidArgument(
        f"unknown field '{shown}'; known: {', '.join(known)}", code="unsupported_parameter", param=shown
    )


def unsupported(message: str, where: str) -> InvalidArgument:
    return InvalidArgument(message, code="unsupported_content", param=where)
