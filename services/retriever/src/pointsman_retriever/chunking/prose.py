"""Chunks plain text and Markdown by their structure; the size of chunks is counted in the embedding model's tokens."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from pointsman_retriever.chunking.blocks import Block, ChunkedBlock, Path, Span, break_long_lines
from pointsman_retriever.domain import Chunk

WINDOW_TOKENS = 256  # of a chunk with its titles and special tokens; MiniLM reads as many
CHUNK_TOKENS = 200  # the rest of the window is for the title and the headings
CHUNK_CHARACTERS = 2_000  # the tokenizer counts a word above 100 characters, or a run of spaces, as one token or none
CONTEXT_CHARACTERS = 160

_LINE_END = re.compile(r"\r\n|\n|\r")

# Quotes and lists nested in each other on one line. The Markdown splitter's time grows with the square of their depth,
# and no person writes so: such a block is split as plain text.
_DEEP_NESTING = re.compile(r"^(?:[ \t]*(?:>|[*+-][ \t]|\d{1,9}[.)][ \t])){20}", re.MULTILINE)


def chunk_tokens(window: int) -> int:
    """Returns the maximum number of tokens of a chunk's own text.

    `window` is the maximum for the chunk's text together with its context, the titles that are put before the text.
    """
    return max(1, window * CHUNK_TOKENS // WINDOW_TOKENS)


class EmbeddingWindow:
    """Makes chunks of a document that fit into the embedding model's window (its maximum number of tokens).

    The titles of the document and of the sections that enclose a chunk are put before its text, as many as fit.
    """

    def __init__(self, tokenizer: Tokenizer, tokens: int = WINDOW_TOKENS) -> None:
        """Takes a `tokenizer` that does not truncate; `tokens` is the maximum of a chunk's text and titles together."""
        self._tokenizer = tokenizer
        self._tokens = tokens

    def chunk(self, block: Block, span: Span, path: Path) -> Chunk:
        """Makes a chunk of a span of the block; its context is the document's title and the titles in `path`.

        `span` has offsets in the block, the chunk has offsets in the document. If the chunk is too long with all
        titles, they are left out one by one, the outermost first. The context is cut to `CONTEXT_CHARACTERS`. The
        caller makes sure that the span fits without titles.
        """
        titles = [title.strip() for title in (block.title, *(title for _, title in path))]
        distinct = list(dict.fromkeys(title for title in titles if title))
        (start, end), offset = span, block.start
        for first in range(len(distinct) + 1):
            context = " > ".join(distinct[first:])[:CONTEXT_CHARACTERS]
            chunk = Chunk(block.text[start:end], offset + start, offset + end, context)
            if not chunk.context or self.fits(chunk.embedded_text):
                return chunk
        raise AssertionError("unreachable: the last chunk that is tried has no titles")

    def fits(self, text: str) -> bool:
        return len(self._tokenizer.encode(text).ids) <= self._tokens


class LengthSplitter:
    """Splits text into spans of at most `tokens` tokens and `CHUNK_CHARACTERS` characters.

    It splits at paragraphs if possible, else at sentences, else at words. Blanks between the spans are left out.
    """

    def __init__(self, tokenizer: Tokenizer, tokens: int) -> None:
        self._by_tokens = TextSplitter.from_huggingface_tokenizer(tokenizer, tokens)
        self._by_characters = TextSplitter(CHUNK_CHARACTERS)

    def split(self, text: str, splitter: TextSplitter | MarkdownSplitter | None = None) -> list[Span]:
        """Returns the spans of the text as (start, end) offsets, in order.

        `splitter`, if given, splits the text instead of the splitter for `tokens` tokens; the limit of characters still
        applies.
        """
        broken, inserted = break_long_lines(text)
        spans: list[Span] = []
        for offset, piece in (splitter or self._by_tokens).chunk_indices(broken):
            start = offset - bisect_left(inserted, offset)
            end = offset + len(piece) - bisect_left(inserted, offset + len(piece))
            spans += self._limit_characters(text, start, end)
        return spans

    def _limit_characters(self, text: str, start: int, end: int) -> list[Span]:
        """Returns the span, or its parts if it has more than `CHUNK_CHARACTERS` characters."""
        if end - start <= CHUNK_CHARACTERS:
            return [(start, end)]
        parts = self._by_characters.chunk_indices(text[start:end])
        return [(start + offset, start + offset + len(part)) for offset, part in parts]


class PlainTextChunker:
    """Chunks plain text; implements TextChunker.

    Each chunk is embedded with a context before its text: the document's title.
    """

    has_fences = False

    def __init__(self, tokenizer: Tokenizer, window: int = WINDOW_TOKENS) -> None:
        """Takes a `tokenizer` that does not truncate; `window` is the maximum tokens of a chunk with its title."""
        self._splitter = LengthSplitter(tokenizer, chunk_tokens(window))
        self._window = EmbeddingWindow(tokenizer, window)

    def is_section(self, line: str, after_blank: bool) -> bool:
        return False

    def chunk(self, block: Block) -> ChunkedBlock:
        spans = self._splitter.split(block.text)
        return ChunkedBlock(tuple(self._window.chunk(block, span, ()) for span in spans), ())


@dataclass(frozen=True, slots=True)
class Heading:
    start: int  # offset in the text, in characters
    end: int  # start of the line after it
    level: int  # 1 to 6
    title: str


def find_headings(text: str) -> list[Heading]:
    """Returns the headings of a Markdown text, in order, except those inside quotes and lists."""
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])  # inline markup is not needed
    tokens = parser.parse(text)
    lines = [0, *(end.end() for end in _LINE_END.finditer(text)), len(text)]
    return [
        Heading(lines[opening.map[0]], lines[opening.map[1]], int(opening.tag[1]), inline.content.strip())
        for opening, inline in pairwise(tokens)
        if opening.type == "heading_open" and opening.level == 0 and opening.map
    ]


def enclosing_sections(headings: list[Heading], starts: Sequence[int], path: Path = ()) -> tuple[list[Path], Path]:
    """Returns two things: the path at each offset in `starts`, which are ascending, and the path at the end of the
    text.

    The path at an offset has (level, title) of each section that encloses the offset, the outermost first. The argument
    `path` is the path at the beginning of the text. If a heading starts exactly at an offset, the path at the offset
    leaves out the section of this heading.
    """
    paths: list[Path] = []
    following = 0
    for start in starts:
        while following < len(headings) and headings[following].start < start:
            path = _open_section(path, headings[following])
            following += 1
        starts_here = following < len(headings) and headings[following].start == start
        paths.append(_above_level(path, headings[following].level) if starts_here else path)
    for heading in headings[following:]:
        path = _open_section(path, heading)
    return paths, path


def contains_only_headings(text: str, headings: list[Heading], start: int, end: int) -> bool:
    """Returns whether `text[start:end]` consists of one or more headings and blanks, without other text."""
    first = bisect_left(headings, start, key=lambda heading: heading.start)
    reached = start
    for heading in islice(headings, first, None):
        if heading.start >= end or text[reached : heading.start].strip():
            break
        reached = heading.end
    return reached > start and not text[reached:end].strip()


def _open_section(path: Path, heading: Heading) -> Path:
    return (*_above_level(path, heading.level), (heading.level, heading.title))


def _above_level(path: Path, level: int) -> Path:
    return tuple(section for section in path if section[0] < level)


class MarkdownChunker:
    """Chunks Markdown; implements TextChunker.

    Each chunk is embedded with a context before its text: the document's title, and the headings of the sections that
    enclose the chunk.
    """

    has_fences = True

    def __init__(self, tokenizer: Tokenizer, window: int = WINDOW_TOKENS) -> None:
        """Takes a `tokenizer` that does not truncate; `window` is the maximum tokens of a chunk with its titles."""
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, chunk_tokens(window))
        self._plain = LengthSplitter(tokenizer, chunk_tokens(window))
        self._window = EmbeddingWindow(tokenizer, window)

    def is_section(self, line: str, after_blank: bool) -> bool:
        return line.startswith("#")

    def chunk(self, block: Block) -> ChunkedBlock:
        text = block.text
        headings = find_headings(text) if block.has_structure else []
        if block.has_structure and not _DEEP_NESTING.search(text):
            spans = self._plain.split(text, self._markdown)
        else:
            spans = self._plain.split(text)
        spans = self._join_headings(text, headings, spans)
        paths, path = enclosing_sections(headings, [start for start, _ in spans], block.path)
        chunks = (self._window.chunk(block, span, above) for span, above in zip(spans, paths, strict=True))
        return ChunkedBlock(tuple(chunks), path)

    def _join_headings(self, text: str, headings: list[Heading], spans: list[Span]) -> list[Span]:
        """Joins short spans of only headings with the span that follows them, if together they fit into one chunk."""
        joined: list[Span] = []
        pending: list[Span] = []  # spans of headings that wait for their section
        for start, end in spans:
            first = pending[0][0] if pending else start
            is_last = end == spans[-1][1]
            is_short = end - first <= CONTEXT_CHARACTERS
            if not is_last and is_short and contains_only_headings(text, headings, first, end):
                pending.append((start, end))
                continue
            joined.extend([(first, end)] if self._window.fits(text[first:end]) else [*pending, (start, end)])
            pending = []
        return joined
