"""Selects the chunker for a document by its media type."""

from collections.abc import Mapping

from tokenizers import Tokenizer

from pointsman_retriever.chunking.blocks import Chunker
from pointsman_retriever.chunking.code import CodeChunker
from pointsman_retriever.chunking.prose import MarkdownChunker, PlainTextChunker

# Increase the number when a chunker's output changes: documents that are sent again are then chunked again.
_RECIPES = {"markdown": "markdown-3", "plain": "plain-2", "code": "code-2"}

_MARKDOWN = frozenset(
    {"", "text/markdown", "text/x-markdown", "text/html", "application/xhtml+xml", "application/jsonl"}
)
_PLAIN = frozenset({"text/plain", "application/pdf", "text/csv"})


def make_chunkers(tokenizer: Tokenizer) -> Mapping[str, Chunker]:
    """Returns the chunkers by kind. `tokenizer` measures texts and must not truncate."""
    return {
        "markdown": MarkdownChunker(tokenizer),
        "plain": PlainTextChunker(tokenizer),
        "code": CodeChunker(tokenizer),
    }


def recipe_for(media_type: str) -> str:
    """Names the chunker and its version. Any "text/..." that is neither Markdown nor plain text is a source file."""
    if media_type in _MARKDOWN:
        return _RECIPES["markdown"]
    return _RECIPES["plain"] if media_type in _PLAIN else _RECIPES["code"]


def kind_of(recipe: str) -> str:
    return recipe.partition("-")[0]
