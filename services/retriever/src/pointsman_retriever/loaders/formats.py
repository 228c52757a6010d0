"""Reads plain text and JSON Lines files in the service's own process; also has the types that all file readers use."""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_LINE = re.compile(r"[^\n]*(?:\n|$)")  # JSON strings may contain other line breaks

LINE_KEYS = ("id", "title", "text", "metadata")

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadedText:
    title: str  # from the file itself, or ''
    text: str


class UnreadableFile(Exception):
    """Raised if a file, or a line of a file, cannot be read.

    The message is a predicate without a subject, such as "is encrypted"; the caller puts the document's id before it.
    """


def read_text(content: bytes) -> str:
    """Decodes a text file in UTF-8, or in UTF-16 with a byte order mark.

    Raises UnreadableFile if the file cannot be decoded or contains a null character.
    """
    try:
        text = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile("is binary, or not in UTF-8") from error
    if "\0" in text:
        raise UnreadableFile("is binary")
    return text


def replace_surrogates(text: str) -> str:
    """Replaces each lone surrogate, which UTF-8 cannot represent, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_lines(content: bytes) -> Iterator[tuple[int, Entry | UnreadableFile]]:
    """Yields (line number, object) for each line of a JSON Lines file that is not blank. Lines are counted from 1.

    An object has only keys of `LINE_KEYS`, of which "text" is required; the key "_id" is returned as "id". In the place
    of an invalid object, an UnreadableFile is yielded. Raises UnreadableFile if the whole file cannot be decoded.
    """
    for number, match in enumerate(_LINE.finditer(read_text(content)), start=1):
        line = match[0]
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
        raise UnreadableFile("is not a JSON object")
    if "_id" in entry:  # as in the BEIR collections
        entry.setdefault("id", entry.pop("_id"))
    if unknown := sorted(set(entry) - set(LINE_KEYS)):
        raise UnreadableFile(f"has the unknown key {unknown[0]!r}; known: {', '.join(LINE_KEYS)}")
    if not isinstance(entry.get("text"), str):
        raise UnreadableFile("has no 'text' that is a string")
    identifier = entry.get("id", "")
    is_id = isinstance(identifier, str | int) and not isinstance(identifier, bool)
    if not is_id or not isinstance(entry.get("title", ""), str):
        raise UnreadableFile("has an 'id' that is not a string or integer, or a 'title' that is not a string")
    metadata = entry.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str | int | float) for value in metadata.values()):
        raise UnreadableFile("has 'metadata' that is not an object of strings and numbers")
    texts = (entry.get("id", ""), entry.get("title", ""), entry["text"], *metadata, *metadata.values())
    try:
        "".join(map(str, texts)).encode()
    except UnicodeEncodeError as error:
        raise UnreadableFile("contains a lone surrogate, which is not a character") from error
    return entry
