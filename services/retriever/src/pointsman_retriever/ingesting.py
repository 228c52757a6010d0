"""A stream of documents into a collection: each answered for by itself, and no more in hand than there is room for."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace

from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_retriever import limits
from pointsman_retriever.domain import (
    CollectionId,
    Document,
    DocumentOutcome,
    DocumentState,
    IngestEnd,
    IngestSummary,
    RawDocument,
    UpsertResult,
)
from pointsman_retriever.library import CollectionService
from pointsman_retriever.loaders.loading import JSONL, FailedDocument, Loader
from pointsman_retriever.workers import CallLimit

log = logging.getLogger(__name__)

MAX_DOCUMENTS_IN_FLIGHT = 256  # documents of a stream
MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
DISCARD_SECONDS = 10.0  # for what is sent to an ingest that has failed
MAX_DOCUMENTS_PER_BATCH = 64  # documents of a group, or lines of a file of JSON lines
MAX_BYTES_PER_BATCH = 64 * 1024  # half a second of embedding; who waits for an answer waits for its whole group
MAX_CONCURRENT_BATCHES = 2  # one is embedded while another is written
BATCH_WAIT_SECONDS = (
    0.025  # that a group waits for more: a commit costs searches as much for one document as for thirty
)


class InFlightBudget:
    """For so many documents, and so many bytes; a document alone always has room. For one that enters."""

    def __init__(self) -> None:
        self._documents = 0
        self._bytes = 0
        self._moved = asyncio.Event()
        self.is_given_up = False

    def give_up(self) -> None:
        """Nothing more is taken in hand; what is sent is read on and dropped, so that the sender hears the reason."""
        self.is_given_up = True
        self._moved.set()

    async def enter(self, size: int) -> None:
        while not self._has_room(size):
            self._moved.clear()
            await self._moved.wait()
        self._documents += 1
        self._bytes += size

    def leave(self, documents: int, size: int) -> None:
        self._documents -= documents
        self._bytes -= size
        self._moved.set()

    def _has_room(self, size: int) -> bool:
        if self._documents == 0 or self.is_given_up:
            return True
        return self._documents < MAX_DOCUMENTS_IN_FLIGHT and self._bytes + size <= MAX_BYTES_IN_FLIGHT


class DocumentBatch:
    """Documents that are written together: those that came while others were at work."""

    def __init__(self) -> None:
        self.documents: list[RawDocument] = []
        self.bytes = 0
        self._complete = asyncio.Event()

    def add(self, document: RawDocument, size: int) -> None:
        self.documents.append(document)
        self.bytes += size
        if not self.has_room(0):
            self.complete()

    def has_room(self, size: int) -> bool:
        return len(self.documents) < MAX_DOCUMENTS_PER_BATCH and self.bytes + size < MAX_BYTES_PER_BATCH

    def complete(self) -> None:
        """Nothing more will come."""
        self._complete.set()

    async def gathered(self) -> None:
        """Waits for it to be complete, a little."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._complete.wait(), BATCH_WAIT_SECONDS)


class IngestStream:
    """One stream."""

    def __init__(self, library: CollectionService, loader: Loader, collection: CollectionId, source: str) -> None:
        self._library = library
        self._loader = loader
        self._collection = collection
        self._source = source
        self._seen: set[str] = set()
        self._may_remove = True
        self._room = InFlightBudget()
        self._turns = asyncio.Semaphore(MAX_CONCURRENT_BATCHES)
        self._open: DocumentBatch | None = None  # the one that still gathers; it waits for its turn
        # The groups in their order; what comes last is the End, or the error that the stream ended with.
        self._in_hand: asyncio.Queue[
            tuple[DocumentBatch, asyncio.Task[list[DocumentOutcome]]] | IngestEnd | Exception | None
        ] = asyncio.Queue()

    async def run(
        self, line: CallLimit, sent: AsyncIterator[RawDocument | IngestEnd]
    ) -> AsyncIterator[Sequence[DocumentOutcome] | IngestSummary]:
        """What became of the documents, of those together that were written together; and at last the sum.

        Raises what ends the whole: InvalidArgument, NotFound, FailedPrecondition, and what the disk says.
        """
        limits.check_source(self._source)
        self._library.version(self._collection)
        with line.place():
            taking = asyncio.create_task(self._take(sent))
            try:
                async for event in self._answers():
                    yield event
            except PointsmanError:
                self._room.give_up()
                await asyncio.wait([taking], timeout=DISCARD_SECONDS)
                raise
            finally:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)
                await self._give_up()

    async def _take(self, sent: AsyncIterator[RawDocument | IngestEnd]) -> None:
        try:
            async for one in sent:
                if self._room.is_given_up:
                    continue
                if isinstance(one, IngestEnd):
                    self._complete_open()
                    self._in_hand.put_nowait(one)
                    return
                size = len(one.content) + len(one.text)
                await self._room.enter(size)
                if self._room.is_given_up:
                    continue
                self._gather(one, size)
            self._complete_open()
            self._in_hand.put_nowait(None)  # the stream ended without an End
        except Exception as error:
            self._in_hand.put_nowait(error)

    def _gather(self, document: RawDocument, size: int) -> None:
        group = self._open
        if group is None or not group.has_room(size):
            self._complete_open()
            group = self._open = DocumentBatch()
            self._in_hand.put_nowait((group, asyncio.create_task(self._ingest(group))))
        group.add(document, size)

    def _complete_open(self) -> None:
        if self._open is not None:
            self._open.complete()

    async def _answers(self) -> AsyncIterator[Sequence[DocumentOutcome] | IngestSummary]:
        summary = IngestSummary()
        while True:
            item = await self._in_hand.get()
            if isinstance(item, Exception):
                raise item
            if item is None or isinstance(item, IngestEnd):
                yield await self._ended(summary, remove=item is not None and item.remove_missing)
                return
            group, task = item
            try:
                outcomes = await task
            finally:
                self._room.leave(len(group.documents), group.bytes)
            for outcome in outcomes:
                summary = _add_to_summary(summary, outcome)
            yield outcomes

    async def _ended(self, summary: IngestSummary, remove: bool) -> IngestSummary:
        removed = 0
        if remove and not self._source:
            raise InvalidArgument(
                "remove_missing needs the name of a source, whose documents are compared",
                code="source_needed",
                param="source",
            )
        if remove and self._may_remove:
            removed = await self._library.remove_others(self._collection, self._source, self._seen)
        log.info("ingest of %s into %s: %s, %d removed", self._source, self._collection, summary, removed)
        return replace(summary, removed=removed, version=self._library.version(self._collection))

    async def _ingest(self, group: DocumentBatch) -> list[DocumentOutcome]:
        async with self._turns:
            await group.gathered()
            if self._open is group:
                self._open = None
            outcomes: list[DocumentOutcome] = []
            together: list[Document | DocumentOutcome] = []
            for raw in group.documents:
                async for one in self._loaded(raw):
                    together.append(one)
                    if len(together) == MAX_DOCUMENTS_PER_BATCH:
                        outcomes += await self._write(together)
                        together = []
            return outcomes + await self._write(together)

    async def _loaded(self, raw: RawDocument) -> AsyncIterator[Document | DocumentOutcome]:
        """What is in it, or how that failed."""
        try:
            limits.check_content(raw)
        except InvalidArgument as error:
            yield self._unread(raw, FailedDocument(raw.id, error))
            return
        async for one in self._loader.load(raw):
            if isinstance(one, FailedDocument):
                yield self._unread(raw, one)
            elif one.id in self._seen:
                yield _duplicate_outcome(one.id)
            else:
                self._seen.add(one.id)
                yield one

    def _unread(self, raw: RawDocument, failed: FailedDocument) -> DocumentOutcome:
        # Lines that cannot be read do not say whose they were: those documents must not be taken for gone.
        self._may_remove = self._may_remove and raw.media_type != JSONL
        self._seen.add(failed.id)
        return _failed_outcome(failed.id, failed.error)

    async def _write(self, together: Sequence[Document | DocumentOutcome]) -> list[DocumentOutcome]:
        """Writes the documents among them, and returns what became of all, in their order."""
        documents = [one for one in together if isinstance(one, Document)]
        if not documents:
            return [one for one in together if isinstance(one, DocumentOutcome)]
        written = await self._library.write_each(self._collection, documents, self._source)
        outcomes = map(_to_outcome, documents, written)
        return [one if isinstance(one, DocumentOutcome) else next(outcomes) for one in together]

    async def _give_up(self) -> None:
        """What is in hand when the client has gone, or the stream has failed."""
        tasks = []
        while not self._in_hand.empty():
            item = self._in_hand.get_nowait()
            if isinstance(item, tuple):
                item[1].cancel()
                tasks.append(item[1])
        await asyncio.gather(*tasks, return_exceptions=True)


def _to_outcome(document: Document, written: UpsertResult | PointsmanError) -> DocumentOutcome:
    """Raises what would refuse the next document too."""
    if isinstance(written, UpsertResult):
        state = DocumentState.UNCHANGED if written.unchanged else DocumentState.WRITTEN
        return DocumentOutcome(document.id, state, written.chunks)
    if isinstance(written, InvalidArgument) or written.code == "quota_exceeded":
        return _failed_outcome(document.id, written)
    raise written


def _duplicate_outcome(document_id: str) -> DocumentOutcome:
    return DocumentOutcome(
        document_id,
        DocumentState.FAILED,
        code="duplicate_document_id",
        message=f"document {document_id!r} is twice in one ingest; each id may be there once",
    )


def _failed_outcome(document_id: str, error: PointsmanError) -> DocumentOutcome:
    return DocumentOutcome(document_id, DocumentState.FAILED, code=error.code, message=error.message)


def _add_to_summary(summary: IngestSummary, outcome: DocumentOutcome) -> IngestSummary:
    return replace(
        summary,
        written=summary.written + (outcome.state is DocumentState.WRITTEN),
        unchanged=summary.unchanged + (outcome.state is DocumentState.UNCHANGED),
        failed=summary.failed + (outcome.state is DocumentState.FAILED),
        chunks=summary.chunks + outcome.chunks,
    )
