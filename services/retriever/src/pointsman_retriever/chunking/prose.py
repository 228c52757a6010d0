"""Chunks plain text and Markdown at their structure, measured in the embedding model's tokens."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from pointsman_retriever.domain import Chunk, Document

WINDOW_TOKENS = 256  # that the model reads, its two special tokens included
CHUNK_TOKENS = 200  # the rest of the window is for the title and the headings
CHUNK_CHARACTERS = 2_000  # the tokenizer counts a word above 100 characters, or a run of spaces, as one token or none
CONTEXT_CHARACTERS = 160

Span = tuple[int, int]  # start and end, offsets in characters


class EmbeddingWindow:
    """Makes chunks that the embedding model reads completely."""

    def __init__(self, tokenizer: Tokenizer, tokens: int = WINDOW_TOKENS) -> None:
        """`tokenizer` measures texts and must not truncate."""
        self._tokenizer = tokenizer
        self._tokens = tokens

    def chunk(self, text: str, start: int, end: int, titles: Sequence[str]) -> Chunk:
        """Makes a chunk of `text[start:end]` with as many of its titles as fit; drops the outermost first."""
        distinct = list(dict.fromkeys(part for part in (title.strip() for title in titles) if part))
        for first in range(len(distinct) + 1):
            chunk = Chunk(text[start:end], start, end, " > ".join(distinct[first:])[:CONTEXT_CHARACTERS])
            if not chunk.context or self.fits(chunk.embedded_text):
                return chunk
        raise AssertionError("a chunk without titles fits")

    def fits(self, text: str) -> bool:
        return len(self._tokenizer.encode(text).ids) <= self._tokens


class LengthSplitter:
    """Splits text at paragraphs, else at sentences, else at words, into parts of limited tokens and characters."""

    def __init__(self, tokenizer: Tokenizer, tokens: int) -> None:
        self._by_tokens = TextSplitter.from_huggingface_tokenizer(tokenizer, tokens)
        self._by_characters = TextSplitter(CHUNK_CHARACTERS)

    def split(self, text: str) -> list[Span]:
        return [
            (start + offset, start + offset + len(part))
            for start, piece in self._by_tokens.chunk_indices(text)
            for offset, part in self.limit_characters(piece)
        ]

    def limit_characters(self, piece: str) -> list[tuple[int, str]]:
        """Splits a piece of few tokens and many characters; returns offsets and parts."""
        if len(piece) <= CHUNK_CHARACTERS:
            return [(0, piece)]
        parts: list[tuple[int, str]] = self._by_characters.chunk_indices(piece)
        return parts


class PlainTextChunker:
    """Implements Chunker for plain text: the title is each chunk's only context."""

    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS) -> None:
        """`tokenizer` measures texts and must not truncate."""
        self._splitter = LengthSplitter(tokenizer, tokens)
        self._window = EmbeddingWindow(tokenizer)

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        text = document.text
        return tuple(
            self._window.chunk(text, start, end, [document.title]) for start, end in self._splitter.split(text)
        )


_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Heading:
    start: int  # offset in the text, in characters
    end: int  # start of the line after it
    level: int  # 1 to 6
    title: str


def find_headings(text: str) -> list[Heading]:
    """Returns the headings in order, without those inside quotes and lists, which do not structure the document."""
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])  # inline markup is not needed
    tokens = parser.parse(text)
    lines = [0, *(end.end() for end in _LINE_END.finditer(text)), len(text)]
    return [
        Heading(lines[opening.map[0]], lines[opening.map[1]], int(opening.tag[1]), inline.content.strip())
        for opening, inline in pairwise(tokens)
        if opening.type == "heading_open" and opening.level == 0 and opening.map
    ]


def titles_above(headings: list[Heading], starts: list[int]) -> list[tuple[str, ...]]:
    """For each of the ascending offsets, the titles of the enclosing sections, outermost first.

    A heading that starts exactly at an offset is not among its titles.
    """
    above: list[tuple[str, ...]] = []
    path: list[Heading] = []
    following = 0
    for start in starts:
        while following < len(headings) and headings[following].start < start:
            path = [*_above_level(path, headings[following].level), headings[following]]
            following += 1
        starts_here = following < len(headings) and headings[following].start == start
        here = _above_level(path, headings[following].level) if starts_here else path
        above.append(tuple(heading.title for heading in here))
    return above


def contains_only_headings(text: str, headings: list[Heading], start: int, end: int) -> bool:
    """Whether `text[start:end]` consists of one or more headings without any text below them."""
    first = bisect_left(headings, start, key=lambda heading: heading.start)
    reached = start
    for heading in islice(headings, first, None):
        if heading.start >= end or text[reached : heading.start].strip():
            break
        reached = heading.end
    return reached > start and not text[reached:end].strip()


def _above_level(path: list[Heading], level: int) -> list[Heading]:
    return [heading for heading in path if heading.level < level]


# Quotes and lists nested in each other on one line. The Markdown splitter's time grows with the square of their depth
# (100 kB of ">" take 8 s), and no person writes so: such a text is split as plain text.
_DEEP_NESTING = re.compile(r"^(?:[ \t]*(?:>|[*+-][ \t]|\d{1,9}[.)][ \t])){20}", re.MULTILINE)


class MarkdownChunker:
    """Implements Chunker for Markdown: the title and the headings above a chunk are its context."""

    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS) -> None:
        """`tokenizer` measures texts and must not truncate."""
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, tokens)
        self._plain = LengthSplitter(tokenizer, tokens)
        self._window = EmbeddingWindow(tokenizer)

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        """Returns at least one chunk for a text that is not blank."""
        text = document.text
        headings = find_headings(text)
        spans = self._join_headings(text, headings, self._split(text))
        above = titles_above(headings, [start for start, _ in spans])
        return tuple(
            self._window.chunk(text, start, end, [document.title, *titles])
            for (start, end), titles in zip(spans, above, strict=True)
        )

    def _split(self, text: str) -> list[Span]:
        if _DEEP_NESTING.search(text):
            return self._plain.split(text)
        return [
            (start + offset, start + offset + len(part))
            for start, piece in self._markdown.chunk_indices(text)
            for offset, part in self._plain.limit_characters(piece)
        ]

    def _join_headings(self, text: str, headings: list[Heading], spans: list[Span]) -> list[Span]:
        """Joins headings that the splitter separated from a long section with the first chunk of that section."""
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
