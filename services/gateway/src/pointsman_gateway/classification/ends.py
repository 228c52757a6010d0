"""What rules and the language are read from: all of a short text, both ends of a long one, without what is no text."""

import re
from dataclasses import dataclass

AT_AN_END = 4096
"""Characters. A pattern's time may grow with the square of what it is shown: with a megabyte it would be minutes."""

BINARY_SHARE = 0.1
"""Of control characters: bytes that were taken for text have a quarter, text has next to none."""

_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufff9-\uffff"
_BINARY = re.compile(f"[{_CONTROL}]")
_UNSEEN = re.compile(f"[{_CONTROL}\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
"""Control characters, marks of direction, characters of no width: what is not seen is not read."""


@dataclass(frozen=True, slots=True)
class Ends:
    text: str
    notes: tuple[str, ...] = ()


def ends_of(text: str) -> Ends:
    """The first and the last 4,096 characters on lines of their own, with a note, unless there are no more."""
    if len(text) <= 2 * AT_AN_END:
        return Ends(text)
    note = f"read the first and the last {AT_AN_END} of {len(text)} characters"
    return Ends(f"{text[:AT_AN_END]}\n{text[-AT_AN_END:]}", (note,))


def visible(text: str) -> str:
    """Without the characters that are not seen."""
    return text if text.isprintable() else _UNSEEN.sub("", text)


def is_binary(text: str) -> bool:
    return not text.isprintable() and len(_BINARY.findall(text)) > BINARY_SHARE * len(text)
