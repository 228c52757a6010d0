"""Media in messages: which kinds, roles and URLs are accepted, by the same rules for every API.

A content part with a medium is rebuilt from its known fields, so that an engine gets no field that was not checked. If
a part has a `uuid`, for example, vLLM ignores the part's type, reads the first medium that it finds in the part, and
stores it under the `uuid` in a cache that all tenants share.
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
"""Fields by which clients mark parts for the provider's prompt cache. Media parts are rebuilt without them."""


@dataclass(frozen=True, slots=True)
class MediaForm:
    """How a content part holds a medium of one type, such as an image: {"type": T, T: {DATA: a URL, and optional
    fields}}.

    `data` is the name DATA, `more` are the names of the optional fields, and `expected` describes the URL in errors.
    """

    medium: str
    """The kind of the medium: "image", "audio", "video" or "file"."""
    data: str = "url"
    """The name of the field with the URL."""
    more: tuple[str, ...] = ()
    """The names of the optional fields, which are texts."""
    takes_base64: bool = False
    """Whether the field with the URL may also hold base64 without a URL around it."""
    expected: str = 'a "url" that begins with "data:", "https:" or "http:"'
    """A description of the accepted form, for error messages."""


MEDIA_PARTS: Mapping[str, MediaForm] = {
    "image_url": MediaForm("image", more=("detail",)),
    "input_audio": MediaForm("audio", "data", ("format",), True, '"data" (base64) and its "format"'),
    "audio_url": MediaForm("audio"),
    "video_url": MediaForm("video"),
    "file": MediaForm("file", "file_data", ("filename",), expected='"file_data", as a "data:" URL; no files are kept'),
}
"""The forms of content parts with media, by the part's type."""
MEDIA = tuple(dict.fromkeys(form.medium for form in MEDIA_PARTS.values()))
_MEDIA_FIELDS = frozenset({*MEDIA_PARTS, "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"})
"""Fields of a part that hold a medium for some engine."""


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

    `where` is the location of `given` in the body, for errors. Raises InvalidArgument if `given` is not an object,
    the URL is missing or not accepted, a field is unknown, or an optional field is not a text. Data in the URL is
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
    """Raises InvalidArgument if `fields` has a field that is not in `known`, not in `IGNORED_FIELDS`, and not null.

    `where` is the place of `fields` in the body, such as "messages[0].content[1]", for the error message.
    """
    for name, value in fields.items():
        if value is not None and name not in known and name not in IGNORED_FIELDS:
            raise _unknown_field(name, known, where)


def reject_media_fields(part: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raises InvalidArgument if a content part that holds a text also has a field for a medium, such as
    `image_url`, since the medium would be ignored.

    `known`, the fields that the part may have, and `where`, its location in the body, are for the error message.
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
