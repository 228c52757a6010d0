"""A stream of documents into a collection: each answered for by itself, and no more in hand than there is room for."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_retriever import limits
from pointsman_retriever.domain import CollectionId, Document, End, Outcome, RawDocument, State, Summary
from pointsman_retriever.library import Library
from pointsman_retriever.loaders.loading import JSONL, Failed, Loader
from pointsman_retriever.workers import Line

log = logging.getLogger(__name__)

MOST_IN_HAND = 256  # documents of a stream
MOST_BYTES_IN_HAND = 64 * 1024 * 1024
DISCARD_SECONDS = 10.0  # for what is sent to an ingest that has failed
LINES_TOGETHER = 64  # of a file of JSON lines

T = TypeVar("T")


class Room:
    """For so many documents, and so many bytes; a document alone always has room."""

    def __init__(self) -> None:
        self._documents = 0
        self._bytes = 0
        self._moved = asyncio.Condition()
        self.is_given_up = False

    async def give_up(self) -> None:
        """Nothing more is taken in hand; what is sent is read on and dropped, so that the sender hears the reason."""
        async with self._moved:
            self.is_given_up = True
            self._moved.notify_all()

    async def enter(self, size: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self._has_room(size))
            self._documents += 1
            self._bytes += size

    async def leave(self, size: int) -> None:
        async with self._moved:
            self._documents -= 1
            self._bytes -= size
            self._moved.notify_all()

    def _has_room(self, size: int) -> bool:
        if self._documents == 0 or self.is_given_up:
            return True
        return self._documents < MOST_IN_HAND and self._bytes + size <= MOST_BYTES_IN_HAND


class Ingest:
    """One stream."""

    def __init__(self, library: Library, loader: Loader, collection: CollectionId, source: str) -> None:
        self._library = library
        self._loader = loader
        self._collection = collection
        self._source = source
        self._seen: set[str] = set()
        self._may_remove = True
        self._room = Room()
        # The documents in their order; what comes last is the End, or the error that the stream ended with.
        self._in_hand: asyncio.Queue[tuple[int, asyncio.Task[list[Outcome]]] | End | Exception | None] = asyncio.Queue()

    async def run(self, line: Line, sent: AsyncIterator[RawDocument | End]) -> AsyncIterator[Outcome | Summary]:
        """Raises what ends the whole: InvalidArgument, NotFound, FailedPrecondition, and what the disk says."""
        limits.check_source(self._source)
        self._library.version(self._collection)
        with line.place():
            taking = asyncio.create_task(self._take(sent))
            try:
                async for event in self._answers():
                    yield event
            except PointsmanError:
                await self._room.give_up()
                await asyncio.wait([taking], timeout=DISCARD_SECONDS)
                raise
            finally:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)
                await self._give_up()

    async def _take(self, sent: AsyncIterator[RawDocument | End]) -> None:
        try:
            async for one in sent:
                if self._room.is_given_up:
                    continue
                if isinstance(one, End):
                    self._in_hand.put_nowait(one)
                    return
                size = len(one.content) + len(one.text)
                await self._room.enter(size)
                if self._room.is_given_up:
                    continue
                self._in_hand.put_nowait((size, asyncio.create_task(self._ingest(one))))
            self._in_hand.put_nowait(None)  # the stream ended without an End
        except Exception as error:
            self._in_hand.put_nowait(error)

    async def _answers(self) -> AsyncIterator[Outcome | Summary]:
        summary = Summary()
        while True:
            item = await self._in_hand.get()
            if isinstance(item, Exception):
                raise item
            if item is None or isinstance(item, End):
                yield await self._ended(summary, remove=item is not None and item.remove_missing)
                return
            size, task = item
            try:
                outcomes = await task
            finally:
                await self._room.leave(size)
            for outcome in outcomes:
                summary = _counted(summary, outcome)
                yield outcome

    async def _ended(self, summary: Summary, remove: bool) -> Summary:
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

    async def _ingest(self, raw: RawDocument) -> list[Outcome]:
        outcomes: list[Outcome] = []
        together: list[Document] = []
        try:
            limits.check_content(raw)
        except InvalidArgument as error:
            self._seen.add(raw.id)
            return [_failed(raw.id, error)]
        async for one in self._loader.load(raw):
            if isinstance(one, Failed):
                # A line that cannot be read does not say whose it was: that document must not be taken for gone.
                self._may_remove = self._may_remove and raw.media_type != JSONL
                self._seen.add(one.id)
                outcomes.append(_failed(one.id, one.error))
                continue
            together.append(one)
            if len(together) == LINES_TOGETHER:
                outcomes += await self._write(together)
                together = []
        return outcomes + await self._write(together)

    async def _write(self, documents: list[Document]) -> list[Outcome]:
        if len(documents) == 1:  # as nearly always: no task of its own for it
            return [await self._write_one(documents[0])]
        return list(await asyncio.gather(*(self._write_one(document) for document in documents)))

    async def _write_one(self, document: Document) -> Outcome:
        if document.id in self._seen:
            return Outcome(
                document.id,
                State.FAILED,
                code="duplicate_document_id",
                message=f"document {document.id!r} is twice in one ingest; each id may be there once",
            )
        self._seen.add(document.id)
        try:
            written = await self._library.write(self._collection, [document], self._source)
        except PointsmanError as error:
            if isinstance(error, InvalidArgument) or error.code == "quota_exceeded":
                return _failed(document.id, error)
            raise  # the next document would fare no better
        state = State.UNCHANGED if written.unchanged else State.WRITTEN
        return Outcome(document.id, state, written.chunks)

    async def _give_up(self) -> None:
        """What is in hand when the client has gone, or the stream has failed."""
        tasks = []
        while not self._in_hand.empty():
            item = self._in_hand.get_nowait()
            if isinstance(item, tuple):
                item[1].cancel()
                tasks.append(item[1])
        await asyncio.gather(*tasks, return_exceptions=True)


def _failed(document_id: str, error: PointsmanError) -> Outcome:
    return Outcome(document_id, State.FAILED, code=error.code, message=error.message)


def _counted(summary: Summary, outcome: Outcome) -> Summary:
    return replace(
        summary,
        written=summary.written + (outcome.state is State.WRITTEN),
        unchanged=summary.unchanged + (outcome.state is State.UNCHANGED),
        failed=summary.failed + (outcome.state is State.FAILED),
        chunks=summary.chunks + outcome.chunks,
    )
