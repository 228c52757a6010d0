"""JSON lines, by their numbers."""

from collections.abc import Iterator


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Those that are not empty, counted from 1 with those that are. A line feed alone ends one: JSON writes the other
    ends of lines that Unicode knows (U+2028 and its like) into its strings as they are."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
