"""Selects the chunker for a document by its media type, and chunks documents in the sandbox, part by part.

Parts and their chunks are sent as JSON.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from tokenizers import Tokenizer

from pointsman_retriever.chunking.blocks import (
    MAX_PART_CHARACTERS,
    ChunkedPart,
    Part,
    TextChunker,
    first_part,
    next_part,
)
from pointsman_retriever.chunking.code import CodeChunker
from pointsman_retriever.chunking.prose import WINDOW_TOKENS, MarkdownChunker, PlainTextChunker
from pointsman_retriever.domain import Chunk, Document
from pointsman_retriever.sandbox import Sandbox, SandboxError

# Increase the number when a chunker's output changes: documents that are sent again are then chunked again.
_RECIPES = {"markdown": "markdown-3", "plain": "plain-2", "code": "code-2"}

_MARKDOWN = frozenset(
    {"", "text/markdown", "text/x-markdown", "text/html", "application/xhtml+xml", "application/jsonl"}
)
_PLAIN = frozenset({"text/plain", "application/pdf", "text/csv"})

RETRY_SECONDS = 120.0  # for trying the documents of a batch one by one after it failed

Chunks = tuple[Chunk, ...]


def make_chunkers(tokenizer: Tokenizer, window: int = WINDOW_TOKENS) -> Mapping[str, TextChunker]:
    """Returns the chunkers by kind of text: "markdown", "plain" and "code".

    `tokenizer` must not truncate. `window` is the maximum number of tokens of a chunk with its titles.
    """
    return {
        "markdown": MarkdownChunker(tokenizer, window),
        "plain": PlainTextChunker(tokenizer, window),
        "code": CodeChunker(tokenizer, window),
    }


def chunking_setup(tokenizer: Tokenizer, window: int = WINDOW_TOKENS) -> bytes:
    """Returns the argument `setup` for a `Sandbox` that chunks documents: the tokenizer and `window`, in JSON.

    `tokenizer` must not truncate. `window` is the maximum number of tokens of a chunk with its titles.
    """
    return json.dumps({"tokenizer": tokenizer.to_str(), "window": window}).encode()


def set_up_chunkers(setup: bytes) -> Mapping[str, TextChunker]:
    """Makes the chunkers of the sandbox's subprocess; returns them by kind of text: "markdown", "plain" and "code".

    `setup` is the JSON that `chunking_setup` has made in the service's process.
    """
    settings = json.loads(setup)
    return make_chunkers(Tokenizer.from_str(settings["tokenizer"]), settings["window"])


def recipe_for(media_type: str) -> str:
    """Returns the recipe for a media type: the name and version of the chunker, such as "markdown-3".

    The chunker is "markdown" for Markdown, HTML, JSON Lines and an empty type, "plain" for plain text, PDF and CSV, and
    "code" for any other type. The recipe is stored with each document.
    """
    if media_type in _MARKDOWN:
        return _RECIPES["markdown"]
    return _RECIPES["plain"] if media_type in _PLAIN else _RECIPES["code"]


def kind_of(recipe: str) -> str:
    return recipe.partition("-")[0]


class SandboxedChunker:
    """Splits documents into chunks in the sandbox's subprocess; implements the interface Chunker."""

    def __init__(self, sandbox: Sandbox, window: int = WINDOW_TOKENS, retry_seconds: float = RETRY_SECONDS) -> None:
        """Takes a `sandbox` whose `setup` was made by `chunking_setup` with the same `window`.

        If several documents that were sent to the sandbox together fail, they are tried again one by one. This takes at
        most `retry_seconds` seconds; documents that were not tried again by then fail.
        """
        self._sandbox = sandbox
        self._retry_seconds = retry_seconds
        self._suffix = "" if window == WINDOW_TOKENS else f"-{window}"

    def recipe(self, document: Document) -> str:
        return recipe_for(document.media_type) + self._suffix

    async def chunk(self, documents: Sequence[tuple[Document, str]]) -> list[Chunks | PointsmanError]:
        """Returns the chunks of each document, in order, with an InvalidArgument in the place of a document that cannot
        be chunked.

        Each document is given with its recipe, the name and version of its chunker. Consecutive small documents with
        the same recipe are sent to the sandbox together; if the sandbox fails, they are sent one by one. A large
        document is sent in parts, and other calls are served after each part.
        """
        results: list[Chunks | PointsmanError] = []
        for batch in _batches(documents):
            results += await self._chunk_batch([document for document, _ in batch], kind_of(batch[0][1]))
        return results

    async def _chunk_batch(self, documents: Sequence[Document], kind: str) -> list[Chunks | PointsmanError]:
        try:
            parts = await self._chunk_parts([first_part(document) for document in documents], kind)
            if len(documents) > 1:  # then each is a single part
                return [part.chunks for part in parts]
            return [await self._chunk_rest(documents[0], parts[0], kind)]
        except SandboxError as error:
            if len(documents) > 1:
                return await self._chunk_each(documents, kind, error)
            return [_failed(documents[0], error)]

    async def _chunk_each(
        self, documents: Sequence[Document], kind: str, error: SandboxError
    ) -> list[Chunks | PointsmanError]:
        """Chunks documents one by one, after they failed together with `error`, so that only the bad ones fail.

        Documents that are left after `retry_seconds` fail too.
        """
        deadline = time.monotonic() + self._retry_seconds
        untried = SandboxError(f"was sent with others, this {error}, and there was no time to try it alone")
        results: list[Chunks | PointsmanError] = []
        for document in documents:
            if time.monotonic() < deadline:
                results += await self._chunk_batch([document], kind)
            else:
                results.append(_failed(document, untried))
        return results

    async def _chunk_rest(self, document: Document, chunked: ChunkedPart, kind: str) -> Chunks:
        chunks = list(chunked.chunks)
        while part := next_part(document, chunked):
            (chunked,) = await self._chunk_parts([part], kind)
            chunks.extend(chunked.chunks)
        return tuple(chunks)

    async def _chunk_parts(self, parts: Sequence[Part], kind: str) -> list[ChunkedPart]:
        content = json.dumps([asdict(part) for part in parts]).encode()
        answer = await self._sandbox.call("chunk", content, kind=kind)
        return [_decode_chunked(part, encoded) for part, encoded in zip(parts, answer["parts"], strict=True)]


def _batches(documents: Sequence[tuple[Document, str]]) -> Iterator[Sequence[tuple[Document, str]]]:
    """Yields groups of consecutive documents of one recipe, with at most MAX_PART_CHARACTERS or a single document."""
    batch: list[tuple[Document, str]] = []
    size = 0
    for document, recipe in documents:
        size += len(document.text)
        if batch and (size > MAX_PART_CHARACTERS or recipe != batch[0][1]):
            yield batch
            batch, size = [], len(document.text)
        batch.append((document, recipe))
    if batch:
        yield batch


def _failed(document: Document, error: SandboxError) -> InvalidArgument:
    return InvalidArgument(
        f"document {document.id!r} cannot be split into chunks: it {error}", code="unreadable_document", param="text"
    )


def decode_part(encoded: Mapping[str, Any]) -> Part:
    return Part(**{**encoded, "path": tuple((level, title) for level, title in encoded["path"])})


def encode_chunked(chunked: ChunkedPart) -> Mapping[str, Any]:
    """Converts a chunked part of a document to JSON values; the chunks' texts are left out, since the receiver has the
    document.
    """
    chunks = [(chunk.start, chunk.end, chunk.context) for chunk in chunked.chunks]
    return {"chunks": chunks, "end": chunked.end, "path": chunked.path, "fence": chunked.fence}


def _decode_chunked(part: Part, encoded: Mapping[str, Any]) -> ChunkedPart:
    chunks = tuple(
        Chunk(part.text[start - part.start : end - part.start], start, end, context)
        for start, end, context in encoded["chunks"]
    )
    path = tuple((level, title) for level, title in encoded["path"])
    return ChunkedPart(chunks, encoded["end"], path, encoded["fence"])
