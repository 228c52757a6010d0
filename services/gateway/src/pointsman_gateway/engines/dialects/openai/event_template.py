"""Reads the text of a stream's events by a template, which is faster than decoding each event's JSON."""

from dataclasses import dataclass
from typing import Any

import msgspec

from pointsman_gateway.engines.dialects.openai.schema import UNREADABLE, Event, decode_event

BEGIN, END = b"data: ", b"\n\n"
"""The bytes that all known engines write before and after the JSON of an event. Events with other line ends do not fit
a template, so they are decoded as JSON, which is slower."""

_BEFORE_TEXT = b'"delta":{"content":'
_ANY_TEXT = b'"?"'
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class EventTemplate:
    """The bytes before and after the text in an event, which are the same in nearly all events of a stream."""

    before: bytes
    after: bytes

    def text_in(self, event: bytes) -> str:
        """Returns the text in an event; empty if the event does not fit the template.

        `event` is the event as it arrives in the stream, with `BEGIN` before and `END` after its JSON.
        """
        if not (event.startswith(self.before) and event.endswith(self.after)):
            return ""
        try:
            return _decode_text(event[len(self.before) : -len(self.after)])
        except UNREADABLE:
            return ""


def learn_template(data: bytes, text: str, event: Event) -> EventTemplate | None:
    """Returns the template by which later events like this one can be read; None if the template would not be safe.

    `data` is the event's JSON, `event` is `data` decoded, and `text` is the content of the event's only delta. The
    template is safe if `data` with another text in place of `text` decodes as an equal event with the other text.
    """
    before, found, after = data.partition(_BEFORE_TEXT + _encode(text) + b"}")
    if not found:
        return None
    before, after = before + _BEFORE_TEXT, b"}" + after
    try:
        other: Any = decode_event(before + _ANY_TEXT + after)
        other_text, other.choices[0].delta.content = other.choices[0].delta.content, text
    except (*UNREADABLE, LookupError, TypeError, AttributeError):
        return None
    return EventTemplate(BEGIN + before, after + END) if other_text == "?" and other == event else None
