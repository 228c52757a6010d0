"""What a file holds, read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    title: str  # as the file itself says; or ''
    text: str


def whole(text: str) -> str:
    """With U+FFFD for half a surrogate pair, which is no character, and cannot be written in UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
