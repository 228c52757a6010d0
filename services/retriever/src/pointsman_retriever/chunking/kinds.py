"""Each kind of text to the chunker that knows how it is written."""

from collections.abc import Mapping
from typing import Protocol

from tokenizers import Tokenizer

from pointsman_retriever.chunking.code import CodeChunker
from pointsman_retriever.chunking.markdown import MarkdownChunker
from pointsman_retriever.chunking.plain import PlainTextChunker
from pointsman_retriever.domain import Chunk, Document


class Chunker(Protocol):
    def chunk(self, document: Document) -> tuple[Chunk, ...]: ...


# Raise a number when that chunker cuts in another way: documents sent again are then made anew.
_RECIPES = {"markdown": "markdown-2", "plain": "plain-1", "code": "code-1"}

_MARKDOWN = frozenset(
    {"", "text/markdown", "text/x-markdown", "text/html", "application/xhtml+xml", "application/jsonl"}
)
_PLAIN = frozenset({"text/plain", "application/pdf", "text/csv"})


class MediaTypeChunker:
    """Cuts a document by its media type; any other "text/..." is a source file."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._chunkers: Mapping[str, Chunker] = {
            "markdown": MarkdownChunker(tokenizer),
            "plain": PlainTextChunker(tokenizer),
            "code": CodeChunker(tokenizer),
        }

    def recipe(self, document: Document) -> str:
        return _RECIPES[_kind_of(document.media_type)]

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        """At least one chunk for a text that is not blank."""
        return self._chunkers[_kind_of(document.media_type)].chunk(document)

    def chunk_again(self, document: Document, recipe: str) -> tuple[Chunk, ...]:
        """As a document was cut whose recipe is known, and whose media type no longer is."""
        return self._chunkers[recipe.partition("-")[0]].chunk(document)


def _kind_of(media_type: str) -> str:
    if media_type in _MARKDOWN:
        return "markdown"
    return "plain" if media_type in _PLAIN else "code"
