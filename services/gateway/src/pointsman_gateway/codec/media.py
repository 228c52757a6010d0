"""Checks media in messages: which kinds, roles and URLs are accepted, by the same rules for every API.

A content part with a medium is rebuilt from its known fields, so that an engine gets no field that was not checked. For
example, if a part has a `uuid`, vLLM ignores the part's type, reads the first medium that it finds in the part, and
stores the medium under the `uuid` in a cache that all tenants share.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.json_body import MAX_NAME_CHARACTERS
from pointsman_gateway.domain import Message

Part = dict[str, Any]
"""A content part of a message, in the format of chat completions."""

MEDIA_ROLES = ("user", "tool")
REMOTE_SCHEMES = ("https:", "http:")
"""The beginnings of URLs whose media an engine has to download."""
URL_SCHEMES = ("data:", *REMOTE_SCHEMES)
IGNORED_FIELDS = frozenset({"cache_control", "prompt_cache_breakpoint"})
"""Fields by which clients mark parts for the provider's prompt cache. Media parts are rebuilt without them."""


@dataclass(frozen=True, slots=True)
class MediaForm:
    """Describes how content parts of one type, such as "image_url", hold a medium.

    A part has the form {"type": TYPE, TYPE: {DATA: URL, and optional fields}}, where DATA is the name in `data`.
    """

    medium: str
    """The kind of the medium: "image", "audio", "video" or "file"."""
    data: str = "url"
    """The name of the field with the medium's URL."""
    more: tuple[str, ...] = ()
    """The names of the optional fields. Their values are texts."""
    takes_base64: bool = False
    """Whether the field named by `data` may also hold bare base64 instead of a URL."""
    expected: str = 'a "url" that begins with "data:", "https:" or "http:"'
    """A description of the accepted form, for error messages."""


MEDIA_PARTS: Mapping[str, MediaForm] = {
    "image_url": MediaForm("image", more=("detail",)),
    "input_audio": MediaForm("audio", "data", ("format",), True, '"data" (base64) and its "format"'),
    "audio_url": MediaForm("audio"),
    "video_url": MediaForm("video"),
    "file": MediaForm("file", "file_data", ("filename",), expected='"file_data", as a "data:" URL; no files are kept'),
}
"""Type of a content part -> how parts of this type hold a medium."""
MEDIA = tuple(dict.fromkeys(form.medium for form in MEDIA_PARTS.values()))
_MEDIA_FIELDS = frozenset({*MEDIA_PARTS, "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"})
"""Names of fields of a content part in which at least one kind of engine reads a medium."""


def is_media_url(text: str) -> bool:
    return text[:8].lower().startswith(URL_SCHEMES)


def may_have_media(role: str) -> bool:
    """Returns whether messages of this role may have media. The decoders reject media in messages of other roles."""
    return role in MEDIA_ROLES


def media_of(messages: Iterable[Message]) -> frozenset[str]:
    """Returns the kinds of media in the messages ("image", "audio", "video", "file"), and "url" if the engine has to
    download any of them.
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
    """Returns a content part of the type `kind`, such as "image_url", built from the known fields of the object
    `given`.

    `where` is the location of `given` in the body, for errors. Raises InvalidArgument if `given` is not an object, if
    its URL is missing or not accepted, if a field is unknown, or if an optional field is not a text. Data in the URL is
    not decoded.
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
    """Raises InvalidArgument if `fields` has an unknown field: one that is not null, and neither in `known` nor in
    `IGNORED_FIELDS`.

    `where` is the location of `fields` in the body, such as "messages[0].content[1]", for the error message.
    """
    for name, value in fields.items():
        if value is not None and name not in known and name not in IGNORED_FIELDS:
            raise _unknown_field(name, known, where)


def reject_media_fields(part: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raises InvalidArgument if a content part with a text also has a field for a medium, such as `image_url`, since an
    engine would not get the medium.

    `known` are the names of the fields that the part may have, and `where` is its location in the body; both are for
    the error message.
    """
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
