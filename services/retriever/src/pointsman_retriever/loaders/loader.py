"""Turns documents as clients send them, either texts or files, into documents with text."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import islice

from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_retriever.domain import Document, RawDocument
from pointsman_retriever.loaders.formats import Entry, UnreadableFile, read_lines, read_text
from pointsman_retriever.sandbox import Sandbox, SandboxError

JSONL = "application/jsonl"
LINES_PER_BATCH = 64  # parsed in one run of a thread
SANDBOXED_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/pdf"})


@dataclass(frozen=True, slots=True)
class FailedDocument:
    """The id of a document that could not be read, and the error.

    For a line of a JSON Lines file, `id` is FILE_ID:LINE, the id that the client gave the file and the number of the
    line.
    """

    id: str
    error: PointsmanError


class Loader:
    def __init__(self, sandbox: Sandbox, max_bad_lines: int) -> None:
        """Takes the sandbox in which HTML and PDF files are read.

        `max_bad_lines` is how many unreadable lines a JSON Lines file may have; the next unreadable line ends its
        reading.
        """
        self._sandbox = sandbox
        self._max_bad_lines = max_bad_lines

    async def load_one(self, raw: RawDocument) -> Document:
        """Returns a document with its text; if the client sent a file, reads the text from the file.

        A document without a title gets the title of its HTML or PDF file. Raises InvalidArgument if `raw` has both a
        text and a file, if the file cannot be read, or if the media type is unknown or JSON Lines (use `load`).
        """
        if not raw.content:
            return _to_document(raw, raw.title, raw.text)
        if raw.text:
            raise InvalidArgument(
                f"document {raw.id!r} has both a text and a file; send one of them",
                code="text_and_content",
                param="text",
            )
        try:
            if raw.media_type in SANDBOXED_TYPES:
                loaded = await self._sandbox.call("read", raw.content, media_type=raw.media_type)
                return _to_document(raw, raw.title or loaded["title"], loaded["text"])
            if raw.media_type.startswith("text/") or not raw.media_type:
                return _to_document(raw, raw.title, read_text(raw.content))
        except (UnreadableFile, SandboxError) as error:
            raise _unreadable_document(raw.id, error) from error
        raise InvalidArgument(
            f"document {raw.id!r} has media type {raw.media_type!r}; known: text/*, "
            f"{', '.join(sorted(SANDBOXED_TYPES))}, and in Ingest {JSONL}",
            code="unknown_media_type",
            param="media_type",
        )

    async def load(self, raw: RawDocument) -> AsyncIterator[Document | FailedDocument]:
        """Yields the document that a client has sent; if it is a JSON Lines file, a document for each line.

        A line's document gets the metadata of `raw` in addition to its own, but not the title or vector of `raw`. In
        the place of a document that cannot be read, a FailedDocument is yielded; no error is raised.
        """
        try:
            if raw.media_type != JSONL or not raw.content:
                yield await self.load_one(raw)
                return
            async for one in self._load_lines(raw):
                yield one
        except UnreadableFile as error:
            yield FailedDocument(raw.id, _unreadable_document(raw.id, error))
        except PointsmanError as error:
            yield FailedDocument(raw.id, error)

    async def _load_lines(self, raw: RawDocument) -> AsyncIterator[Document | FailedDocument]:
        lines, bad_lines = read_lines(raw.content), 0
        while batch := await asyncio.to_thread(lambda: list(islice(lines, LINES_PER_BATCH))):
            for number, line in batch:
                bad_lines += isinstance(line, UnreadableFile)
                if bad_lines > self._max_bad_lines:
                    yield FailedDocument(raw.id, _too_many_bad_lines(raw.id, number, self._max_bad_lines))
                    return
                yield _line_to_document(raw, number, line)


def _line_to_document(raw: RawDocument, number: int, line: Entry | UnreadableFile) -> Document | FailedDocument:
    line_id = f"{raw.id}:{number}"
    if isinstance(line, UnreadableFile):
        return FailedDocument(line_id, _unreadable_document(line_id, line))
    metadata = {key: str(value) for key, value in line.get("metadata", {}).items()}
    document = _to_document(raw, line.get("title", ""), line["text"])
    return replace(document, id=str(line.get("id", line_id)), metadata={**raw.metadata, **metadata}, vector=None)


def _to_document(raw: RawDocument, title: str, text: str) -> Document:
    return Document(raw.id, title, text, raw.metadata, raw.media_type, raw.vector)


def _unreadable_document(document_id: str, error: UnreadableFile | SandboxError) -> InvalidArgument:
    return InvalidArgument(f"document {document_id!r} {error}", code="unreadable_document", param="content")


def _too_many_bad_lines(document_id: str, number: int, limit: int) -> InvalidArgument:
    return InvalidArgument(
        f"document {document_id!r} has more than {limit} unreadable lines; reading stopped at line {number}",
        code="too_many_bad_lines",
        param="content",
    )
