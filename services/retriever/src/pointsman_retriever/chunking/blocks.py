"""Processes a document in parts and blocks of limited size, so that the time of chunking grows linearly with its size.

The libraries that split text must never get a large text as a whole: their time grows with the square of a line's
length (192 kB without a line break took 15 s) and of the number of Markdown elements. So a document is divided twice.
One call to the sandbox processes one part; after each part, calls for other documents are served, and the call can be
cancelled. A part consists of blocks, which end before a section or after a blank line if possible. A splitter gets one
block at a time, in which long lines are broken.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pointsman_retriever.domain import Chunk, Document

MAX_PART_CHARACTERS = 65_536
MAX_BLOCK_CHARACTERS = 32_000
MAX_LINE_CHARACTERS = 2_000

Span = tuple[int, int]  # start and end, offsets in characters
Path = tuple[tuple[int, str], ...]  # level and title of each enclosing section or definition, outermost first

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")


@dataclass(frozen=True, slots=True)
class Block:
    start: int  # offset in the document's text
    text: str
    has_structure: bool  # False for the inside of a long code fence, which is split as plain text
    title: str  # of the document
    path: Path  # of the sections or definitions that enclose the start of the block


@dataclass(frozen=True, slots=True)
class ChunkedBlock:
    chunks: tuple[Chunk, ...]  # offsets are those in the document
    path: Path  # at the end of the block


class TextChunker(Protocol):
    """Interface for chunking the blocks of one kind of text; the classes PlainTextChunker, MarkdownChunker and
    CodeChunker implement it.
    """

    has_fences: bool  # whether the text may contain Markdown's code fences

    def is_section(self, line: str, after_blank: bool) -> bool:
        """Returns whether a block should end before `line`, because a section or definition probably starts there.

        `after_blank` says whether `line` follows a blank line or is the first line of the text.
        """

    def chunk(self, block: Block) -> ChunkedBlock: ...


@dataclass(frozen=True, slots=True)
class Part:
    start: int  # offset in the document's text
    text: str
    is_last: bool
    title: str  # of the document
    path: Path = ()  # at the start
    fence: str = ""  # the characters that opened the code fence that is open at the start


@dataclass(frozen=True, slots=True)
class ChunkedPart:
    chunks: tuple[Chunk, ...]
    end: int  # where the next part starts: at the last block of this one, unless it is the last part
    path: Path
    fence: str


def first_part(document: Document) -> Part:
    return _part_at(document, 0, (), "")


def next_part(document: Document, chunked: ChunkedPart) -> Part | None:
    """Returns the part of a document that follows the chunked part `chunked`; None if `chunked` was the document's last
    part.
    """
    if chunked.end == len(document.text):
        return None
    return _part_at(document, chunked.end, chunked.path, chunked.fence)


def chunk_part(chunker: TextChunker, part: Part) -> ChunkedPart:
    blocks = list(split_blocks(part.text, chunker, part.fence))
    last = None if part.is_last else blocks.pop()  # it may continue in the next part
    chunks: list[Chunk] = []
    path = part.path
    for block in blocks:
        text = part.text[block.start : block.end]
        chunked = chunker.chunk(Block(part.start + block.start, text, not block.fence, part.title, path))
        chunks.extend(chunked.chunks)
        path = chunked.path
    end = part.start + (len(part.text) if last is None else last.start)
    return ChunkedPart(tuple(chunks), end, path, "" if last is None else last.fence)


@dataclass(frozen=True, slots=True)
class BlockSpan:
    start: int
    end: int
    fence: str  # open at the start, or ''


def split_blocks(text: str, chunker: TextChunker, fence: str = "") -> Iterator[BlockSpan]:
    """Yields the blocks of a text in order, without gaps; `fence` is the code fence that is open at the start, or ''.

    A block has at most `MAX_BLOCK_CHARACTERS` characters. Four places are tried for its end, in this order: before the
    last section that begins in its second half, after the last blank line in its second half, before its last line
    outside a code fence, and before the first line that does not fit. If a code fence continues in the next block, the
    next block ends with the fence.
    """
    start, start_fence = 0, fence
    section = blank = outside = 0  # the last possible ends of each kind
    after_blank = True
    for here, end in _lines(text):
        line = text[here:end]
        if not fence:
            outside = here
            if here > start and chunker.is_section(line, after_blank):
                section = here
        while end - start > MAX_BLOCK_CHARACTERS:
            middle = start + MAX_BLOCK_CHARACTERS // 2
            cut = next((place for place in (section, blank) if place > middle), outside if outside > start else here)
            yield BlockSpan(start, cut, start_fence)
            start, start_fence = cut, fence if cut == here else ""
        if chunker.has_fences:
            fence = _fence_after(fence, line)
            if start_fence and not fence:  # the end of a fence that is longer than a block
                yield BlockSpan(start, end, start_fence)
                start, start_fence = end, ""
        after_blank = not line.strip()
        if after_blank and not fence:
            blank = end
    if start < len(text):
        yield BlockSpan(start, len(text), start_fence)


def break_long_lines(text: str) -> tuple[str, list[int]]:
    """Inserts line breaks into lines longer than MAX_LINE_CHARACTERS.

    Returns the new text, and the offsets in the new text of the line breaks that were inserted, ascending.
    """
    pieces: list[str] = []
    inserted: list[int] = []
    for start, end in _lines(text):
        pieces.append(text[start:end])
        if end < len(text) and text[end - 1] != "\n":
            inserted.append(end + len(inserted))
            pieces.append("\n")
    return "".join(pieces), inserted


def _lines(text: str) -> Iterator[Span]:
    """Yields the spans of a text's lines, with their line breaks; a line above MAX_LINE_CHARACTERS is cut into pieces.

    A piece has at most MAX_LINE_CHARACTERS. It ends after a sentence in its second half, else after a space there, else
    at its full length.
    """
    half = MAX_LINE_CHARACTERS // 2
    for line in _LINE.finditer(text):
        start, end = line.span()
        while end - start > MAX_LINE_CHARACTERS:
            window = text[start + half : start + MAX_LINE_CHARACTERS]
            offset = max(window.rfind(". "), window.rfind("? "), window.rfind("! ")) + 2
            if offset < 2:
                offset = window.rfind(" ") + 1
            cut = start + half + (offset or len(window))
            yield start, cut
            start = cut
        yield start, end


def _part_at(document: Document, start: int, path: Path, fence: str) -> Part:
    text = document.text[start : start + MAX_PART_CHARACTERS]
    return Part(start, text, start + len(text) == len(document.text), document.title, path, fence)


def _fence_after(fence: str, line: str) -> str:
    """Returns the characters of the code fence that is open after `line`, or '' if none is; `fence` is the fence that
    was open before it.
    """
    match = _FENCE.match(line.rstrip())
    if not match:
        return fence
    if not fence:
        return match[1]
    return "" if match[1].startswith(fence) and not match[2] else fence
