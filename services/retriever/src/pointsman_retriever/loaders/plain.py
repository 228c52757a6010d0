"""Bytes to text."""

import codecs

from pointsman_retriever.loaders.unreadable import UnreadableFile

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(content: bytes) -> str:
    """UTF-8, or UTF-16 where a mark says so; raises Unreadable."""
    try:
        text = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile("is binary, or not in UTF-8") from error
    if "\0" in text:
        raise UnreadableFile("is binary")
    return text
