"""Plain text to chunks: cut at paragraphs, else at sentences, else at words, measured in the model's tokens."""

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from pointsman_retriever.chunking.window import CHUNK_CHARACTERS, CHUNK_TOKENS, EmbeddingWindow
from pointsman_retriever.domain import Chunk, Document


class PlainTextChunker:
    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS) -> None:
        """`tokenizer` must not truncate: it measures the text."""
        self._cutter = LengthSplitter(tokenizer, tokens)
        self._window = EmbeddingWindow(tokenizer)

    def chunk(self, document: Document) -> tuple[Chunk, ...]:
        text = document.text
        return tuple(self._window.chunk(text, start, end, [document.title]) for start, end in self._cutter.cut(text))


class LengthSplitter:
    def __init__(self, tokenizer: Tokenizer, tokens: int) -> None:
        self._splitter = TextSplitter.from_huggingface_tokenizer(tokenizer, tokens)
        self._characters = TextSplitter(CHUNK_CHARACTERS)

    def cut(self, text: str) -> list[tuple[int, int]]:
        """Spans in characters."""
        return [
            (start + offset, start + offset + len(part))
            for start, piece in self._splitter.chunk_indices(text)
            for offset, part in self.shorten(piece)
        ]

    def shorten(self, piece: str) -> list[tuple[int, str]]:
        """Cuts what is long in characters, though not in tokens."""
        if len(piece) <= CHUNK_CHARACTERS:
            return [(0, piece)]
        parts: list[tuple[int, str]] = self._characters.chunk_indices(piece)
        return parts
