"""Sinks that store the events of an answer until a coroutine reads them: for ASGI, gRPC, shadow requests and tests."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, take_error

from pointsman_gateway.domain import Chunk, Chunks, Event, Finished, Started
from pointsman_gateway.pipeline.admission import UnreadBudget

MAX_UNREAD_BYTES_EACH = 64 * 1024
"""Maximum number of bytes of one answer that wait because the client has not read them, before the request is paused.
asyncio buffers as many for a connection.
"""
EVENT_BYTES = 512
"""The approximate size in bytes of one event of an answer, without its text, when unread bytes are counted."""

UNREAD_SECONDS = 0.5
"""Seconds after the deadline until an answer is aborted because its client does not read it."""

Item = TypeVar("Item")


class AnswerNotRead(DeadlineExceeded):
    """Raised if the client did not read its whole answer before the request's deadline."""

    def __init__(self) -> None:
        super().__init__("the answer was not read in the request's time", code="deadline_exceeded")


class RunControl(Protocol):
    """What the sink of an answer uses to pause, resume or cancel the request; `RequestRun` and `RequestBatch` implement
    it.
    """

    def pause(self) -> None:
        """Stops sending the answer until `resume`, because its client reads too slowly (backpressure)."""
        ...

    def resume(self) -> None: ...

    def cancel(self, reason: PointsmanError | None = None) -> None:
        """Ends the request. The client gets the error `reason`; None means that it has disconnected (outcome
        "cancelled").
        """
        ...


class ItemQueue(Generic[Item]):
    """Passes the items of one request's answer to one reader, and pauses the request while too many bytes are unread.

    Items stay in the queue after the request's end, so a request keeps no slot and no engine for a slow reader.
    """

    def __init__(self, unread: UnreadBudget | None = None) -> None:
        """Takes the limit of unread bytes over all answers; None: each item pauses the request until it is read."""
        self.run: RunControl | None = None
        """The request's run, set by the code that starts it; None once the run has ended."""
        self._unread = unread
        self._unread_bytes = 0
        self._items: deque[Item] = deque()
        self._is_closed = False
        self.error: Exception | None = None
        """The error that ended the run; None if there is none, or once the reader has got it."""
        self._reader: asyncio.Future[None] | None = None

    def put(self, item: Item, size: int = 0) -> None:
        """Adds an item of about `size` bytes. Pauses the request if its client has too many bytes left to read.

        The limits are `MAX_UNREAD_BYTES_EACH` for one answer, and `UnreadBudget` for all answers together.
        """
        self._items.append(item)
        if self.run is not None and not self._may_wait(size):
            self.run.pause()
        self._wake()

    def _may_wait(self, size: int) -> bool:
        """Returns whether the request may go on while an item of `size` bytes is unread; if so, counts the bytes."""
        unread = self._unread
        if unread is None or self._unread_bytes + size > MAX_UNREAD_BYTES_EACH or not unread.take(size):
            return False
        self._unread_bytes += size
        return True

    def _release_unread(self) -> None:
        if self._unread is not None and self._unread_bytes:
            self._unread.give_back(self._unread_bytes)
            self._unread_bytes = 0

    def close(self, error: Exception | None = None) -> None:
        """Marks the end of the items: the reader gets the remaining ones, then `error` if it is given. Later calls do
        nothing.
        """
        if not self._is_closed:
            self._is_closed, self.error = True, error
            self._wake()

    def detach(self) -> None:
        """Records that the request has ended, so that the queue no longer pauses or cancels it, and marks the end of
        the items.
        """
        self.run = None
        self.close()
        self._wake()

    def __aiter__(self) -> "ItemQueue[Item]":
        return self

    async def __anext__(self) -> Item:
        """Waits for the next item and returns it. After the last one, raises the request's error, or
        StopAsyncIteration.
        """
        while not self._items:
            self._release_unread()
            if self._is_closed:
                if self.error is not None:
                    raise take_error(self)
                raise StopAsyncIteration
            if self.run is not None:
                self.run.resume()
            if not self._items and not self._is_closed:
                await self._wait()
        return self._items.popleft()

    async def aclose(self) -> None:
        """Cancels the request if it has not ended, and returns once its receipt is written."""
        self._release_unread()
        self._unread = None
        if self.run is not None:
            self.run.cancel()
            while self.run is not None:
                await self._wait()

    async def write_to(self, write: Callable[[Item], Awaitable[None]], deadline: float) -> None:
        """Passes every item to `write`, until `UNREAD_SECONDS` after `deadline` (seconds on the event loop's clock).

        If the request has not delivered its last item by then, waits up to `UNREAD_SECONDS` more, in case the event
        loop has stalled. Raises the error with which the request fails, an error of `write`, or AnswerNotRead if the
        time is over. Cancels the request if `write` fails or the time is over.
        """
        try:
            if not await self._write_until(write, deadline + UNREAD_SECONDS) and not await self._write_until(
                write, asyncio.get_running_loop().time() + UNREAD_SECONDS
            ):
                raise TimeoutError
        except TimeoutError as late:
            if self.run is not None:
                self.run.cancel(AnswerNotRead())
            raise AnswerNotRead from late
        finally:
            await self.aclose()

    async def _write_until(self, write: Callable[[Item], Awaitable[None]], limit: float) -> bool:
        """Passes items to `write` until the time `limit`, in seconds on the event loop's clock.

        Returns whether the queue has ended and all items are written. Raises TimeoutError if a call of `write` exceeds
        the limit, and otherwise the request's error or that of `write`.
        """
        is_writing = False
        try:
            async with asyncio.timeout_at(limit):
                async for item in self:
                    is_writing = True
                    await write(item)
                    is_writing = False
        except TimeoutError:
            if is_writing:
                raise
            return False
        return True

    async def _wait(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class EventQueue(ItemQueue[Event]):
    """The queue of one answer's events, from the sink that the request writes to, to one reader; implements
    `AnswerSink`.
    """

    def started(self, started: Started) -> None:
        self.put(started, EVENT_BYTES)

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.put(chunks, sum([len(chunk.raw) + len(chunk.content) + EVENT_BYTES for chunk in chunks]))

    def finished(self, finished: Finished) -> None:
        self.put(finished, EVENT_BYTES)

    def failed(self, error: PointsmanError) -> None:
        self.close(error)

    def closed(self) -> None:
        self.detach()


class CollectedAnswer:
    """Collects the events of one answer, for code that needs the complete answer; implements `AnswerSink`."""

    def __init__(self) -> None:
        self.run: RunControl | None = None
        """The request's run, set by the code that starts it; None once the run has ended."""
        self.start: Started | None = None
        self.pieces: list[Chunk] = []
        self._finished: Finished | None = None
        self.error: PointsmanError | None = None
        """The error that ended the run, until `whole` raises it; None if there is none."""
        self._over = asyncio.Event()

    async def whole(self) -> Finished:
        """Waits until the answer is complete, and returns its last event, with the receipt.

        The attributes `start` and `pieces` then hold the first event and the chunks. Raises the PointsmanError with
        which the request fails. Cancelling the call cancels the request.
        """
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            if self.run is not None:
                self.run.cancel()
                await self._over.wait()
            raise
        if self.error is not None:
            raise take_error(self)
        assert self._finished is not None  # nobody else cancels the run
        return self._finished

    def started(self, started: Started) -> None:
        self.start = started

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.pieces.extend(chunks)

    def finished(self, finished: Finished) -> None:
        self._finished = finished

    def failed(self, error: PointsmanError) -> None:
        self.error = error

    def closed(self) -> None:
        self.run = None
        self._over.set()
