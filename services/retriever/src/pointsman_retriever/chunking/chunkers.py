"""Selects the chunker for a document by its media type."""

from collections.abc import Mapping
from typing import Protocol

from tokenizers import Tokenizer

from pointsman_retriever.chunking.code import CodeChunker
from pointsman_retriever.chunking.prose import MarkdownChunker, PlainTextChunker
from pointsman_retriever.domain import Chunk, Document


class TextChunker(Protocol):
    def chunk(self, document: Document) -> tuple[Chunk, ...]: ...


# Increase the number when a chunker's output changes: documents that are sent again are then chunked again.
_RECIPES = {"markdown": "markdown-2", "plain": "plain-1", "code": "code-1"}

_MARKDOWN = frozenset(
    {"", "text/markdown", "text/x-markdown", "text/html", "application/xhtml+xml", "application/jsonl"}
)
_PLAIN = frozenset({"text/plain", "application/pdf", "text/csv"})


class MediaTypeChunker:
    """Implements Chunker. Any "text/..." that is neither Markdown nor plain text is chunked as a source file."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._chunkers: Mapping[str, TextChunker] = {
            "markdown": MarkdownChunker(tokenizer),
            "plain": PlainTextChunker(tokenizer),
            "code": CodeChunker(tokenizer),
        }

    def recipe(self, document: Document) -> str:
        return _RECIPES[_kind_of(document.media_type)]

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        """Returns at least one chunk for a text that is not blank."""
        return self._chunkers[_kind_of(document.media_type)].chunk(document)

    def chunk_again(self, document: Document, recipe: str) -> tuple[Chunk, ...]:
        """Chunks a stored document by its recipe, because its media type is not stored."""
        return self._chunkers[recipe.partition("-")[0]].chunk(document)


def _kind_of(media_type: str) -> str:
    if media_type in _MARKDOWN:
        return "markdown"
    return "plain" if media_type in _PLAIN else "code"
