"""What a file holds, read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    title: str  # as the file itself says; or ''
    text: str
