"""Markdown to chunks: cut where the text itself pauses, measured in the embedding model's tokens."""

from semantic_text_splitter import MarkdownSplitter
from tokenizers import Tokenizer

from pointsman_retriever.chunking.headings import find_headings, titles_above
from pointsman_retriever.domain import Chunk, Document

CHUNK_TOKENS = 200  # of the 256 that the model reads; the rest is for the title and the headings
CONTEXT_CHARACTERS = 160


class MarkdownChunker:
    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS) -> None:
        """`tokenizer` must not truncate: it measures the text."""
        self._splitter = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, tokens)

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        """At least one chunk for a text that is not blank."""
        pieces = self._splitter.chunk_indices(document.text)
        above = titles_above(find_headings(document.text), [start for start, _ in pieces])
        return tuple(
            Chunk(text, start, start + len(text), _context(document.title, titles))
            for (start, text), titles in zip(pieces, above, strict=True)
        )


def _context(title: str, headings: tuple[str, ...]) -> str:
    titles = list(dict.fromkeys(part for part in (title.strip(), *headings) if part))
    return " > ".join(titles)[:CONTEXT_CHARACTERS]
