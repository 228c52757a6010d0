"""Markdown to chunks: cut where the text itself pauses, measured in the embedding model's tokens."""

import re

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from pointsman_retriever.chunking.headings import Heading, find_headings, is_headings_alone, titles_above
from pointsman_retriever.domain import Chunk, Document

Span = tuple[int, int]  # from, to: offsets in characters

CHUNK_TOKENS = 200  # of the 256 that the model reads; the rest is for the title and the headings
CHUNK_CHARACTERS = 2_000  # to the tokenizer a word beyond 100 characters, or a run of spaces, is one token or none
CONTEXT_CHARACTERS = 160

# Quotes and lists inside each other on one line. The Markdown splitter's time grows with the square of their depth
# (100 kB of ">" take 8 s), and no person writes so: such a text is cut as plain text.
_DEEP_NEST = re.compile(r"^(?:[ \t]*(?:>|[*+-][ \t]|\d{1,9}[.)][ \t])){20}", re.MULTILINE)


class MarkdownChunker:
    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS) -> None:
        """`tokenizer` must not truncate: it measures the text."""
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, tokens)
        self._plain = TextSplitter.from_huggingface_tokenizer(tokenizer, tokens)
        self._cutter = TextSplitter(CHUNK_CHARACTERS)

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        """At least one chunk for a text that is not blank."""
        text = document.text
        headings = find_headings(text)
        spans = _with_their_headings(text, headings, self._split(text))
        above = titles_above(headings, [start for start, _ in spans])
        return tuple(
            Chunk(text[start:end], start, end, _context(document.title, titles))
            for (start, end), titles in zip(spans, above, strict=True)
        )

    def _split(self, text: str) -> list[Span]:
        splitter = self._plain if _DEEP_NEST.search(text) else self._markdown
        return [
            (start + offset, start + offset + len(part))
            for start, piece in splitter.chunk_indices(text)
            for offset, part in self._cut(piece)
        ]

    def _cut(self, piece: str) -> list[tuple[int, str]]:
        if len(piece) <= CHUNK_CHARACTERS:
            return [(0, piece)]
        parts: list[tuple[int, str]] = self._cutter.chunk_indices(piece)
        return parts


def _with_their_headings(text: str, headings: list[Heading], spans: list[Span]) -> list[Span]:
    """Gives headings that the splitter left alone, above a section too long for one chunk, to that section's first."""
    joined: list[Span] = []
    lone: int | None = None  # where headings begin that wait for their section
    for start, end in spans:
        begin = start if lone is None else lone
        is_last = end == spans[-1][1]
        if not is_last and end - begin <= CONTEXT_CHARACTERS and is_headings_alone(text, headings, begin, end):
            lone = begin
        else:
            joined.append((begin, end))
            lone = None
    return joined


def _context(title: str, headings: tuple[str, ...]) -> str:
    titles = list(dict.fromkeys(part for part in (title.strip(), *headings) if part))
    return " > ".join(titles)[:CONTEXT_CHARACTERS]
