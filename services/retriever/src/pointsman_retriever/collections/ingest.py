"""Ingests a stream of documents: writes them in small batches, reports each outcome, and limits memory.

While too many documents are being processed, no further ones are read from the stream (backpressure).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace

from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_retriever import limits
from pointsman_retriever.collections.service import CollectionService
from pointsman_retriever.concurrency import CallLimit
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
from pointsman_retriever.loaders.loader import JSONL, FailedDocument, Loader

log = logging.getLogger(__name__)

MAX_DOCUMENTS_IN_FLIGHT = 256  # of one stream
MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
DISCARD_SECONDS = 10.0  # for reading the rest of a failed stream
MAX_DOCUMENTS_PER_BATCH = 64  # or lines of a JSON lines file
MAX_BYTES_PER_BATCH = 64 * 1024  # half a second of embedding; every document's answer waits for its whole batch
MAX_CONCURRENT_BATCHES = 2  # one is embedded while the other is written
BATCH_WAIT_SECONDS = 0.025  # a batch waits so long for more documents: a commit slows searches equally for 1 or 30


class InFlightBudget:
    """Limits how many documents of an ingest are processed at a time (MAX_DOCUMENTS_IN_FLIGHT), and their bytes
    (MAX_BYTES_IN_FLIGHT).

    While no document is being processed, a document of any size is admitted. Only one caller at a time may wait in
    `acquire`.
    """

    def __init__(self) -> None:
        self._documents = 0
        self._bytes = 0
        self._changed = asyncio.Event()
        self.is_cancelled = False

    def cancel(self) -> None:
        """Makes `acquire` return at once from now on, so that its caller can read and drop the rest of a failed stream.

        The stream must be read to its end, because a client receives the error only after it has finished sending.
        """
        self.is_cancelled = True
        self._changed.set()

    async def acquire(self, size: int) -> None:
        while not self._has_room(size):
            self._changed.clear()
            await self._changed.wait()
        self._documents += 1
        self._bytes += size

    def release(self, documents: int, size: int) -> None:
        self._documents -= documents
        self._bytes -= size
        self._changed.set()

    def _has_room(self, size: int) -> bool:
        if self._documents == 0 or self.is_cancelled:
            return True
        return self._documents < MAX_DOCUMENTS_IN_FLIGHT and self._bytes + size <= MAX_BYTES_IN_FLIGHT


class DocumentBatch:
    """Documents of one ingest stream that are embedded and written together.

    A batch takes the documents that arrive while earlier batches are processed, and for BATCH_WAIT_SECONDS more. It is
    complete at MAX_DOCUMENTS_PER_BATCH or MAX_BYTES_PER_BATCH.
    """

    def __init__(self) -> None:
        self.documents: list[RawDocument] = []
        self.bytes = 0
        self._closed = asyncio.Event()

    def add(self, document: RawDocument, size: int) -> None:
        self.documents.append(document)
        self.bytes += size
        if not self.has_room(0):
            self.close()

    def has_room(self, size: int) -> bool:
        return len(self.documents) < MAX_DOCUMENTS_PER_BATCH and self.bytes + size < MAX_BYTES_PER_BATCH

    def close(self) -> None:
        """Marks the batch as complete: no more documents will be added."""
        self._closed.set()

    async def wait_until_closed(self) -> None:
        """Waits until the batch is complete, for BATCH_WAIT_SECONDS at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), BATCH_WAIT_SECONDS)


class IngestStream:
    """Ingests the documents of one client's stream into a collection.

    `source` is the client's name for the place from which the documents come; if it is not empty, it is stored with
    each document.
    """

    def __init__(self, service: CollectionService, loader: Loader, collection_id: CollectionId, source: str) -> None:
        self._service = service
        self._loader = loader
        self._collection_id = collection_id
        self._source = source
        self._seen: set[str] = set()
        self._may_remove = True
        self._budget = InFlightBudget()
        self._turns = asyncio.Semaphore(MAX_CONCURRENT_BATCHES)
        self._open: DocumentBatch | None = None  # the batch that still accepts documents
        # The batches in order; the last item is the IngestEnd, the error that ended the stream, or None.
        self._queue: asyncio.Queue[
            tuple[DocumentBatch, asyncio.Task[list[DocumentOutcome]]] | IngestEnd | Exception | None
        ] = asyncio.Queue()

    async def run(
        self, limit: CallLimit, requests: AsyncIterator[RawDocument | IngestEnd]
    ) -> AsyncIterator[Sequence[DocumentOutcome] | IngestSummary]:
        """Yields the outcomes of each batch, in the order of the documents, and at the end the summary.

        `requests` yields the client's documents, and perhaps an IngestEnd, which may ask to delete the source's
        documents that the client has not sent. A document has the outcome FAILED if it cannot be read, is not valid,
        exceeds the quota, or has the id of an earlier one in the stream. Nothing is deleted if a JSON Lines file or a
        line of it could not be read, since the ids in it are unknown.

        Each of these errors ends the stream: InvalidArgument if the source's name is too long or documents are to be
        deleted without a source, NotFound if there is no such collection, FailedPrecondition if the collection is in an
        external store ("read_only_collection") or another embedding model made its vectors ("fingerprint_mismatch"),
        ResourceExhausted ("overloaded") if `limit` is reached, Unavailable if the model's endpoint fails, storage
        errors (`translate_errors`), and what `requests` raises.
        """
        limits.check_source(self._source)
        await self._service.version(self._collection_id)
        with limit.slot():
            reading = asyncio.create_task(self._read(requests))
            try:
                async for event in self._events():
                    yield event
            except PointsmanError:
                self._budget.cancel()
                await asyncio.wait([reading], timeout=DISCARD_SECONDS)
                raise
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                await self._cancel_batches()

    async def _read(self, requests: AsyncIterator[RawDocument | IngestEnd]) -> None:
        try:
            async for request in requests:
                if self._budget.is_cancelled:
                    continue
                if isinstance(request, IngestEnd):
                    self._close_open_batch()
                    self._queue.put_nowait(request)
                    return
                size = len(request.content) + len(request.text)
                await self._budget.acquire(size)
                if self._budget.is_cancelled:
                    continue
                self._add_to_batch(request, size)
            self._close_open_batch()
            self._queue.put_nowait(None)  # the stream ended without an IngestEnd
        except Exception as error:
            self._queue.put_nowait(error)

    def _add_to_batch(self, document: RawDocument, size: int) -> None:
        batch = self._open
        if batch is None or not batch.has_room(size):
            self._close_open_batch()
            batch = self._open = DocumentBatch()
            self._queue.put_nowait((batch, asyncio.create_task(self._process(batch))))
        batch.add(document, size)

    def _close_open_batch(self) -> None:
        if self._open is not None:
            self._open.close()

    async def _events(self) -> AsyncIterator[Sequence[DocumentOutcome] | IngestSummary]:
        summary = IngestSummary()
        while True:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None or isinstance(item, IngestEnd):
                yield await self._finish(summary, remove=item is not None and item.remove_missing)
                return
            batch, task = item
            try:
                outcomes = await task
            finally:
                self._budget.release(len(batch.documents), batch.bytes)
            for outcome in outcomes:
                summary = _add_to_summary(summary, outcome)
            yield outcomes

    async def _finish(self, summary: IngestSummary, remove: bool) -> IngestSummary:
        removed = 0
        if remove and not self._source:
            raise InvalidArgument(
                "remove_missing needs a source: it deletes the documents of this source that were not sent",
                code="source_needed",
                param="source",
            )
        if remove and self._may_remove:
            removed = await self._service.delete_missing(self._collection_id, self._source, self._seen)
        log.info("ingested %s into collection %s: %s, removed %d", self._source, self._collection_id, summary, removed)
        return replace(summary, removed=removed, version=await self._service.version(self._collection_id))

    async def _process(self, batch: DocumentBatch) -> list[DocumentOutcome]:
        async with self._turns:
            await batch.wait_until_closed()
            if self._open is batch:
                self._open = None
            outcomes: list[DocumentOutcome] = []
            pending: list[Document | DocumentOutcome] = []
            for raw in batch.documents:
                async for one in self._load(raw):
                    pending.append(one)
                    if len(pending) == MAX_DOCUMENTS_PER_BATCH:
                        outcomes += await self._write(pending)
                        pending = []
            return outcomes + await self._write(pending)

    async def _load(self, raw: RawDocument) -> AsyncIterator[Document | DocumentOutcome]:
        """Yields the documents of `raw`, and an outcome for each that cannot be read or repeats an id of the stream."""
        try:
            limits.check_content(raw)
        except InvalidArgument as error:
            yield self._load_failure(raw, FailedDocument(raw.id, error))
            return
        async for one in self._loader.load(raw):
            if isinstance(one, FailedDocument):
                yield self._load_failure(raw, one)
            elif one.id in self._seen:
                yield _duplicate_outcome(one.id)
            else:
                self._seen.add(one.id)
                yield one

    def _load_failure(self, raw: RawDocument, failed: FailedDocument) -> DocumentOutcome:
        # The ids of unreadable lines are unknown, and those documents must not be deleted as missing.
        self._may_remove = self._may_remove and raw.media_type != JSONL
        self._seen.add(failed.id)
        return _failed_outcome(failed.id, failed.error)

    async def _write(self, batch: Sequence[Document | DocumentOutcome]) -> list[DocumentOutcome]:
        """Writes the documents in `batch`, and returns their outcomes and those already in `batch`, in its order."""
        documents = [one for one in batch if isinstance(one, Document)]
        if not documents:
            return [one for one in batch if isinstance(one, DocumentOutcome)]
        written = await self._service.upsert_each(self._collection_id, documents, self._source)
        outcomes = map(_to_outcome, documents, written)
        return [one if isinstance(one, DocumentOutcome) else next(outcomes) for one in batch]

    async def _cancel_batches(self) -> None:
        """Cancels the batches in flight after the client disconnected or the stream failed."""
        tasks = []
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if isinstance(item, tuple):
                item[1].cancel()
                tasks.append(item[1])
        await asyncio.gather(*tasks, return_exceptions=True)


def _to_outcome(document: Document, result: UpsertResult | PointsmanError) -> DocumentOutcome:
    """Converts a document's result to its outcome.

    If the result is an error that the next documents would meet too, raises it. Only InvalidArgument and
    "quota_exceeded" become outcomes.
    """
    if isinstance(result, UpsertResult):
        state = DocumentState.UNCHANGED if result.unchanged else DocumentState.WRITTEN
        return DocumentOutcome(document.id, state, result.chunks)
    if isinstance(result, InvalidArgument) or result.code == "quota_exceeded":
        return _failed_outcome(document.id, result)
    raise result


def _duplicate_outcome(document_id: str) -> DocumentOutcome:
    return DocumentOutcome(
        document_id,
        DocumentState.FAILED,
        code="duplicate_document_id",
        message=f"document {document_id!r} appears twice in one ingest; each id may appear once",
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
