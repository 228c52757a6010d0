"""JSON lines to documents."""

import json
from collections.abc import Iterator
from typing import Any

from pointsman_retriever.loaders.plain import read_text
from pointsman_retriever.loaders.unreadable import UnreadableFile

KEYS = ("id", "title", "text", "metadata")

Entry = dict[str, Any]


def read_lines(content: bytes) -> Iterator[tuple[int, Entry | UnreadableFile]]:
    """Each line that is not blank, by its number: what it holds, or what is wrong with it. Raises Unreadable."""
    for number, line in enumerate(read_text(content).split("\n"), start=1):  # JSON's texts may hold other line breaks
        if line.strip():
            try:
                yield number, _parse_line(line)
            except UnreadableFile as error:
                yield number, error


def _parse_line(line: str) -> Entry:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise UnreadableFile("is no object")
    if "_id" in entry:  # as in the BEIR collections
        entry.setdefault("id", entry.pop("_id"))
    if unknown := sorted(set(entry) - set(KEYS)):
        raise UnreadableFile(f"has the unknown key {unknown[0]!r}; known: {', '.join(KEYS)}")
    if not isinstance(entry.get("text"), str):
        raise UnreadableFile("has no 'text'")
    if not isinstance(entry.get("id", ""), str | int) or not isinstance(entry.get("title", ""), str):
        raise UnreadableFile("has an 'id' or a 'title' that is no text")
    metadata = entry.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str | int | float) for value in metadata.values()):
        raise UnreadableFile("has 'metadata' that is no object of texts and numbers")
    texts = (entry.get("id", ""), entry.get("title", ""), entry["text"], *metadata, *metadata.values())
    try:
        "".join(map(str, texts)).encode()
    except UnicodeEncodeError as error:
        raise UnreadableFile("has half a surrogate pair, which is no character") from error
    return entry
