"""What a file holds, read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedText:
    title: str  # as the file itself says; or ''
    text: str


def replace_surrogates(text: str) -> str:
    """With U+FFFD for half a surrogate pair, which is no character, and cannot be written in UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
