"""What was sent to documents: a text as it is, a file read by the reader of its kind."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_retriever.domain import Document, RawDocument
from pointsman_retriever.loaders.apart import ReaderApart
from pointsman_retriever.loaders.jsonl import Entry, read_lines
from pointsman_retriever.loaders.plain import read_text
from pointsman_retriever.loaders.unreadable import Unreadable

JSONL = "application/jsonl"
APART = frozenset({"text/html", "application/xhtml+xml", "application/pdf"})


@dataclass(frozen=True, slots=True)
class Failed:
    """A document that could not be read."""

    id: str
    error: PointsmanError


class Loader:
    def __init__(self, apart: ReaderApart) -> None:
        self._apart = apart

    async def load_one(self, raw: RawDocument) -> Document:
        """Raises InvalidArgument."""
        if not raw.content:
            return _document(raw, raw.title, raw.text)
        if raw.text:
            raise InvalidArgument(
                f"document {raw.id!r} has both a text and a file; send one of them",
                code="text_and_content",
                param="text",
            )
        try:
            if raw.media_type in APART:
                read = await self._apart.read(raw.media_type, raw.content)
                return _document(raw, raw.title or read.title, read.text)
            if raw.media_type.startswith("text/") or not raw.media_type:
                return _document(raw, raw.title, read_text(raw.content))
        except Unreadable as error:
            raise _unreadable(raw.id, error) from error
        raise InvalidArgument(
            f"document {raw.id!r} is of media type {raw.media_type!r}; known: text/*, {', '.join(sorted(APART))}, and "
            f"in Ingest {JSONL}",
            code="unknown_media_type",
            param="media_type",
        )

    async def load(self, raw: RawDocument) -> AsyncIterator[Document | Failed]:
        """One document, or of a file of JSON lines each."""
        try:
            if raw.media_type != JSONL or not raw.content:
                yield await self.load_one(raw)
                return
            for number, line in read_lines(raw.content):
                yield _line(raw, number, line)
        except Unreadable as unreadable:
            yield Failed(raw.id, _unreadable(raw.id, unreadable))
        except PointsmanError as error:
            yield Failed(raw.id, error)


def _line(raw: RawDocument, number: int, line: Entry | Unreadable) -> Document | Failed:
    where = f"{raw.id}:{number}"
    if isinstance(line, Unreadable):
        return Failed(where, _unreadable(where, line))
    metadata = {key: str(value) for key, value in line.get("metadata", {}).items()}
    document = _document(raw, line.get("title", ""), line["text"])
    return replace(document, id=str(line.get("id", where)), metadata={**raw.metadata, **metadata}, vector=None)


def _document(raw: RawDocument, title: str, text: str) -> Document:
    return Document(raw.id, title, text, raw.metadata, raw.media_type, raw.vector)


def _unreadable(document_id: str, error: Unreadable) -> InvalidArgument:
    return InvalidArgument(f"document {document_id!r} {error}", code="unreadable_document", param="content")
