"""Source files to chunks: cut between definitions, the outer before the inner, in any language that indents."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Tokenizer

from pointsman_retriever.chunking.plain import LengthSplitter
from pointsman_retriever.chunking.window import CHUNK_TOKENS, EmbeddingWindow
from pointsman_retriever.domain import Chunk, Document

LineRange = tuple[int, int]  # from, to

MAX_INDENT_LEVELS = 12  # of indentation that are looked into; code beyond is cut as plain text
MAX_TITLE_CHARACTERS = 80
MAX_LINES_BACK = 2_000  # how far above a chunk the definitions are looked for that it stands in

_DEFINITION = re.compile(
    r"[ \t]*(?:(?:export|default|declare|public|private|protected|internal|static|final|abstract|async|override|unsafe|"
    r"pub(?:\([^)]*\))?)\s+)*(?:def|class|func|function|fn|interface|struct|enum|trait|impl|module|namespace|record|object)"
    r"\b\W*\w"
)


@dataclass(frozen=True, slots=True)
class CodeLine:
    start: int  # in characters
    end: int
    indent: int  # columns; a tab is four
    tokens: int  # of the text up to its end
    title: str  # of the definition that begins here, or ''
    opens: bool  # whether a cut before it reads well: a definition begins, or a blank line went before
    is_blank: bool


class CodeChunker:
    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS) -> None:
        """`tokenizer` must not truncate: it measures the text."""
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._plain = LengthSplitter(tokenizer, tokens)
        self._window = EmbeddingWindow(tokenizer)

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        text = document.text
        lines = self._lines(text)
        return tuple(
            self._window.chunk(text, start, end, [document.title, *_titles_above(lines, start)])
            for first, last in self._cut(lines, (0, len(lines)), 0)
            for start, end in self._spans(text, lines[first].start, lines[last - 1].end)
        )

    def _lines(self, text: str) -> list[CodeLine]:
        pieces = text.splitlines(keepends=True)
        lines: list[CodeLine] = []
        start, tokens, after_blank = 0, 0, True
        for piece, encoding in zip(pieces, self._tokenizer.encode_batch(pieces, add_special_tokens=False), strict=True):
            title = piece.strip()[:MAX_TITLE_CHARACTERS] if _DEFINITION.match(piece) else ""
            is_blank = not piece.strip()
            indent = len(piece.expandtabs(4)) - len(piece.expandtabs(4).lstrip())
            opens = not is_blank and (after_blank or bool(title))
            tokens += len(encoding.ids)
            lines.append(CodeLine(start, start + len(piece), indent, tokens, title, opens, is_blank))
            start, after_blank = start + len(piece), is_blank
        return lines

    def _cut(self, lines: list[CodeLine], whole: LineRange, level: int) -> list[LineRange]:
        """Pieces that fit where that can be had by cutting at the least indentation first."""
        first, last = whole
        inside = range(first + 1, last)
        if self._fits(lines, whole) or level == MAX_INDENT_LEVELS or not any(lines[n].opens for n in inside):
            return [whole]
        least = min(lines[n].indent for n in inside if lines[n].opens)
        cuts = [first, *(n for n in inside if lines[n].opens and lines[n].indent == least), last]
        pieces = [piece for pair in pairwise(cuts) for piece in self._cut(lines, pair, level + 1)]
        return self._merged(lines, pieces)

    def _merged(self, lines: list[CodeLine], pieces: list[LineRange]) -> list[LineRange]:
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

    def _spans(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        """What is too large still is cut as plain text; the indentation of the first line stays."""
        piece = text[start:end].rstrip()
        if not piece.strip():
            return []
        spans = [(start + begin, start + stop) for begin, stop in self._plain.cut(piece)]
        return [(start, spans[0][1]), *spans[1:]] if not text[start : spans[0][0]].strip() else spans


def _titles_above(lines: list[CodeLine], start: int) -> list[str]:
    """Of the definitions that the line at `start` stands in, outermost first."""
    here = bisect_right(lines, start, key=lambda line: line.start) - 1
    while lines[here].is_blank and here + 1 < len(lines):
        here += 1
    titles: list[str] = []
    indent = lines[here].indent
    for line in reversed(lines[max(0, here - MAX_LINES_BACK) : here]):
        if not line.is_blank and line.indent < indent:
            indent = line.indent
            if line.title:
                titles.append(line.title)
        if indent == 0:
            break
    return titles[::-1]
