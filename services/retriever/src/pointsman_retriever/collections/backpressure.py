"""What an ingest stream waits for: room for more documents, more documents for a batch, and searches in progress."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from pointsman_retriever.domain import RawDocument

MAX_DOCUMENTS_IN_FLIGHT = 256  # of one stream
MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
MAX_DOCUMENTS_PER_BATCH = 64  # or lines of a JSON lines file
MAX_BYTES_PER_BATCH = 64 * 1024  # half a second of embedding; every document's answer waits for its whole batch
BATCH_WAIT_SECONDS = 0.025  # a batch waits so long for more documents: a commit slows searches equally for 1 or 30

PAUSE_SECONDS = 0.04
WAITED_SECONDS = 0.0005
"""A read that takes longer had to wait for the client; one of a message that has arrived takes a tenth of this."""
WAITS_BEFORE_PAUSE = 3
"""Consecutive reads that waited: a single one may have waited for a processor."""

T = TypeVar("T")


class InFlightBudget:
    """Backpressure: limits the documents and bytes in flight. A single document is always admitted, however large.

    For one caller of `acquire` at a time.
    """

    def __init__(self) -> None:
        self._documents = 0
        self._bytes = 0
        self._changed = asyncio.Event()
        self.is_cancelled = False

    def cancel(self) -> None:
        """Lets `acquire` return at once from now on; the caller reads and discards the rest of the stream.

        The client receives the error only after it has finished sending.
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
    """Documents that are written together: those that arrived while earlier batches were processed."""

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
        """Marks the batch as complete."""
        self._closed.set()

    async def wait_until_closed(self) -> None:
        """Returns after BATCH_WAIT_SECONDS at the latest."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), BATCH_WAIT_SECONDS)


class ReadPacer:
    """Reads a slow stream in bursts while searches are in progress.

    A search gives up the GIL many times. If messages arrive one by one all the time, each search waits for the event
    loop as often; if forty are read at once, most searches meet none. A stream that always has messages is not slowed
    down. Messages that arrive during a pause wait in the connection's buffer.
    """

    def __init__(
        self,
        is_searching: Callable[[], bool],
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._is_searching = is_searching
        self._clock = clock
        self._sleep = sleep

    async def read(self, requests: AsyncIterator[T], before_pause: Callable[[], None]) -> AsyncIterator[T]:
        """Yields the requests, and calls `before_pause` before each pause."""
        waits, started = 0, self._clock()
        async for request in requests:
            waits = waits + 1 if self._clock() - started > WAITED_SECONDS else 0
            yield request
            if waits >= WAITS_BEFORE_PAUSE and self._is_searching():
                before_pause()
                await self._sleep(PAUSE_SECONDS)
                waits = 0
            started = self._clock()
