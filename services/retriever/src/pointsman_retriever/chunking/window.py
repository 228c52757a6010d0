"""What the embedding model reads of a text, so that nothing of a chunk is embedded short of its end."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from pointsman_retriever.domain import Chunk

WINDOW_TOKENS = 256  # of the model, its two special ones included
CHUNK_TOKENS = 200  # the rest is for the title and the headings
CHUNK_CHARACTERS = 2_000  # to the tokenizer a word beyond 100 characters, or a run of spaces, is one token or none
CONTEXT_CHARACTERS = 160


class EmbeddingWindow:
    def __init__(self, tokenizer: Tokenizer, tokens: int = WINDOW_TOKENS) -> None:
        """`tokenizer` must not truncate: it measures the text."""
        self._tokenizer = tokenizer
        self._tokens = tokens

    def chunk(self, text: str, start: int, end: int, titles: Sequence[str]) -> Chunk:
        """`text[start:end]` under as many of the titles above it as fit with it; the outermost are left out first."""
        distinct = list(dict.fromkeys(part for part in (title.strip() for title in titles) if part))
        for first in range(len(distinct) + 1):
            chunk = Chunk(text[start:end], start, end, " > ".join(distinct[first:])[:CONTEXT_CHARACTERS])
            if not chunk.context or self.fits(chunk.in_context):
                return chunk
        raise AssertionError("a chunk without titles fits")

    def fits(self, text: str) -> bool:
        return len(self._tokenizer.encode(text).ids) <= self._tokens
