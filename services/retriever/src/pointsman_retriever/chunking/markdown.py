"""Markdown to chunks: cut where the text itself pauses, measured in the embedding model's tokens."""

import re

from semantic_text_splitter import MarkdownSplitter
from tokenizers import Tokenizer

from pointsman_retriever.chunking.headings import Heading, contains_only_headings, find_headings, titles_above
from pointsman_retriever.chunking.plain import LengthSplitter
from pointsman_retriever.chunking.window import CHUNK_TOKENS, CONTEXT_CHARACTERS, EmbeddingWindow
from pointsman_retriever.domain import Chunk, Document

Span = tuple[int, int]  # from, to: offsets in characters

# Quotes and lists inside each other on one line. The Markdown splitter's time grows with the square of their depth
# (100 kB of ">" take 8 s), and no person writes so: such a text is cut as plain text.
_DEEP_NESTING = re.compile(r"^(?:[ \t]*(?:>|[*+-][ \t]|\d{1,9}[.)][ \t])){20}", re.MULTILINE)


class MarkdownChunker:
    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS) -> None:
        """`tokenizer` must not truncate: it measures the text."""
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, tokens)
        self._plain = LengthSplitter(tokenizer, tokens)
        self._window = EmbeddingWindow(tokenizer)

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        """At least one chunk for a text that is not blank."""
        text = document.text
        headings = find_headings(text)
        spans = self._with_their_headings(text, headings, self._split(text))
        above = titles_above(headings, [start for start, _ in spans])
        return tuple(
            self._window.chunk(text, start, end, [document.title, *titles])
            for (start, end), titles in zip(spans, above, strict=True)
        )

    def _split(self, text: str) -> list[Span]:
        if _DEEP_NESTING.search(text):
            return self._plain.cut(text)
        return [
            (start + offset, start + offset + len(part))
            for start, piece in self._markdown.chunk_indices(text)
            for offset, part in self._plain.shorten(piece)
        ]

    def _with_their_headings(self, text: str, headings: list[Heading], spans: list[Span]) -> list[Span]:
        """Gives headings that the splitter left alone, above a section too long for one chunk, to its first chunk."""
        joined: list[Span] = []
        lone: list[Span] = []  # headings that wait for their section
        for start, end in spans:
            begin = lone[0][0] if lone else start
            is_last = end == spans[-1][1]
            if not is_last and end - begin <= CONTEXT_CHARACTERS and contains_only_headings(text, headings, begin, end):
                lone.append((start, end))
                continue
            joined.extend([(begin, end)] if self._window.fits(text[begin:end]) else [*lone, (start, end)])
            lone = []
        return joined
