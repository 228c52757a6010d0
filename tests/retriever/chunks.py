"""Chunks whole documents as the retriever does, one part after the other."""

from pointsman_retriever.chunking.blocks import Part, TextChunker, chunk_part, first_part, next_part
from pointsman_retriever.domain import Chunk, Document


def chunk_document(chunker: TextChunker, document: Document) -> tuple[Chunk, ...]:
    """Chunks all parts one after the other; returns at least one chunk for a text that is not blank."""
    chunks: list[Chunk] = []
    part: Part | None = first_part(document)
    while part is not None:
        chunked = chunk_part(chunker, part)
        chunks.extend(chunked.chunks)
        part = next_part(document, chunked)
    return tuple(chunks)
