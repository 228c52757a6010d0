"""Splits source code into chunks. Chunks begin at definitions or after blank lines, with the least indented places
first. Works for any language that indents blocks.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Tokenizer

from pointsman_retriever.chunking.blocks import Block, ChunkedBlock, Path, Span
from pointsman_retriever.chunking.prose import (
    CHUNK_CHARACTERS,
    WINDOW_TOKENS,
    EmbeddingWindow,
    LengthSplitter,
    chunk_tokens,
)

LineRange = tuple[int, int]  # first line, and the line after the last

MAX_INDENT_LEVELS = 12  # code nested deeper is split as plain text
MAX_TITLE_CHARACTERS = 80
MAX_LINES_BACK = 2_000  # above a chunk, in which the enclosing definitions are looked for

_DEFINITION = re.compile(
    r"[ \t]*(?:(?:export|default|declare|public|private|protected|internal|static|final|abstract|async|override|unsafe|"
    r"pub(?:\([^)]*\))?)\s+)*(?:def|class|func|function|fn|interface|struct|enum|trait|impl|module|namespace|record|object)"
    r"\b\W*\w"
)


@dataclass(frozen=True, slots=True)
class CodeLine:
    start: int  # offset in characters
    end: int
    indent: int  # columns; a tab counts as four
    tokens: int  # of the text up to the end of this line
    title: str  # of the definition that starts here, or ''
    is_boundary: bool  # whether a chunk may start here: a definition starts, or the line before is blank
    is_blank: bool


class CodeChunker:
    """Chunks source files; implements TextChunker.

    Each chunk is embedded with a context before its text: the document's title, and the titles of the definitions that
    enclose the chunk.
    """

    has_fences = False

    def __init__(self, tokenizer: Tokenizer, window: int = WINDOW_TOKENS) -> None:
        """Takes a `tokenizer` that does not truncate; `window` is the maximum tokens of a chunk with its titles."""
        self._tokenizer = tokenizer
        self._tokens = chunk_tokens(window)
        self._plain = LengthSplitter(tokenizer, self._tokens)
        self._window = EmbeddingWindow(tokenizer, window)

    def is_section(self, line: str, after_blank: bool) -> bool:
        return not line[0].isspace() and (after_blank or _DEFINITION.match(line) is not None)

    def chunk(self, block: Block) -> ChunkedBlock:
        if not block.has_structure:
            spans = self._plain.split(block.text)
            return ChunkedBlock(tuple(self._window.chunk(block, span, block.path) for span in spans), block.path)
        lines = self._lines(block.text)
        chunks = tuple(
            self._window.chunk(block, span, _enclosing_definitions(lines, span[0], block.path))
            for first, last in self._split(lines, (0, len(lines)), 0)
            for span in self._spans(block.text, lines[first].start, lines[last - 1].end)
        )
        return ChunkedBlock(chunks, _open_definitions(lines, block.path))

    def _lines(self, text: str) -> list[CodeLine]:
        pieces = text.splitlines(keepends=True)
        lines: list[CodeLine] = []
        start, tokens, after_blank = 0, 0, True
        for piece, encoding in zip(pieces, self._tokenizer.encode_batch(pieces, add_special_tokens=False), strict=True):
            title = piece.strip()[:MAX_TITLE_CHARACTERS] if _DEFINITION.match(piece) else ""
            is_blank = not piece.strip()
            indent = len(piece.expandtabs(4)) - len(piece.expandtabs(4).lstrip())
            is_boundary = not is_blank and (after_blank or bool(title))
            tokens += len(encoding.ids)
            lines.append(CodeLine(start, start + len(piece), indent, tokens, title, is_boundary, is_blank))
            start, after_blank = start + len(piece), is_blank
        return lines

    def _split(self, lines: list[CodeLine], whole: LineRange, level: int) -> list[LineRange]:
        """Splits a range of lines at its least indented boundaries, recursively, until pieces fit or have no boundary.

        At `level` MAX_INDENT_LEVELS a range is not split further. Adjacent pieces that fit into one chunk together are
        joined again.
        """
        first, last = whole
        inside = range(first + 1, last)
        if self._fits(lines, whole) or level == MAX_INDENT_LEVELS or not any(lines[n].is_boundary for n in inside):
            return [whole]
        least = min(lines[n].indent for n in inside if lines[n].is_boundary)
        cuts = [first, *(n for n in inside if lines[n].is_boundary and lines[n].indent == least), last]
        pieces = [piece for pair in pairwise(cuts) for piece in self._split(lines, pair, level + 1)]
        return self._merge(lines, pieces)

    def _merge(self, lines: list[CodeLine], pieces: list[LineRange]) -> list[LineRange]:
        """Joins adjacent pieces of code as long as they fit into one chunk together."""
        merged = pieces[:1]
        for piece in pieces[1:]:
            together = (merged[-1][0], piece[1])
            if self._fits(lines, together):
                merged[-1] = together
            else:
                merged.append(piece)
        return merged

    def _fits(self, lines: list[CodeLine], piece: LineRange) -> bool:
        before = lines[piece[0] - 1].tokens if piece[0] else 0
        return lines[piece[1] - 1].tokens - before <= self._tokens

    def _spans(self, text: str, start: int, end: int) -> list[Span]:
        """Returns the spans of the chunks of `text[start:end]`, split as plain text if it is too large; none if blank.

        The first span includes the indentation of its first line if it fits.
        """
        piece = text[start:end].rstrip()
        if not piece.strip():
            return []
        spans = [(start + first, start + last) for first, last in self._plain.split(piece)]
        is_indent = not text[start : spans[0][0]].strip()
        return [(start, spans[0][1]), *spans[1:]] if is_indent and spans[0][1] - start <= CHUNK_CHARACTERS else spans


def _enclosing_definitions(lines: list[CodeLine], start: int, path: Path) -> Path:
    """Returns the definitions that enclose the first line that is not blank from the offset `start` on.

    `path` are the definitions that enclose the beginning of the block.
    """
    here = bisect_right(lines, start, key=lambda line: line.start) - 1
    while lines[here].is_blank and here + 1 < len(lines):
        here += 1
    return _definitions_above(lines, here, lines[here].indent, path)


def _open_definitions(lines: list[CodeLine], path: Path) -> Path:
    """Returns the definitions that would enclose the next line if it were indented deeper than all of `lines`.

    `path` are the definitions that enclose the first of `lines`.
    """
    deepest = max((line.indent for line in lines), default=0)
    return _definitions_above(lines, len(lines), deepest + 1, path)


def _definitions_above(lines: list[CodeLine], here: int, indent: int, path: Path) -> Path:
    """Returns the definitions that enclose a line with the indentation `indent` at index `here`, outermost first.

    Searches up to `MAX_LINES_BACK` lines upwards. A definition there encloses the line if it is indented less than
    `indent` and less than every line between the two. `path` are the definitions that enclose the first of `lines`;
    those that are indented less than all definitions found are returned before them.
    """
    found: list[tuple[int, str]] = []
    for line in reversed(lines[max(0, here - MAX_LINES_BACK) : here]):
        if not line.is_blank and line.indent < indent:
            indent = line.indent
            if line.title:
                found.append((line.indent, line.title))
        if indent == 0:
            break
    return (*(definition for definition in path if definition[0] < indent), *found[::-1])
