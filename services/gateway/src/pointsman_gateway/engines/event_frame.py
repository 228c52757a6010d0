"""What stands around the text in a stream's events: in nearly all of one stream it is the same to the byte."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

BEFORE_TEXT = b'"delta":{"content":'
ANY_TEXT = b'"?"'

_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class EventFrame:
    """An event's bytes before and after the JSON text that is its delta's content."""

    before: bytes
    after: bytes

    def text_in(self, event: bytes) -> str:
        """Empty where the event is not in this frame, or has no text."""
        if not (event.startswith(self.before) and event.endswith(self.after)):
            return ""
        try:
            return _decode_text(event[len(self.before) : -len(self.after)])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ""

    def around(self, begin: bytes, end: bytes) -> "EventFrame":
        """With what a line begins and ends with."""
        return EventFrame(begin + self.before, self.after + end)


def frame_of(data: bytes, text: str, event: Any, decode: Callable[[bytes], Any]) -> EventFrame | None:
    """Of data that `decode` reads as `event`, whose one delta says `text`; None where it is not sure.

    It is sure where the data with another text reads as the same event with that one: JSON knows no context.
    """
    before, found, after = data.partition(BEFORE_TEXT + _encode(text) + b"}")
    if not found:
        return None
    frame = EventFrame(before + BEFORE_TEXT, b"}" + after)
    try:
        other = decode(frame.before + ANY_TEXT + frame.after)
        said, other.choices[0].delta.content = other.choices[0].delta.content, text
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        return None
    return frame if said == "?" and other == event else None
