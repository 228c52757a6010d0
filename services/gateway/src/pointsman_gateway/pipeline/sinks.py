"""Sinks for an answer's events that a coroutine reads or writes: ASGI, gRPC, shadow requests and tests."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError

from pointsman_gateway.domain import Chunk, Chunks, Event, Finished, Started

UNREAD_SECONDS = 0.5
"""Seconds after the deadline until an answer is given up whose caller does not read it."""

Item = TypeVar("Item")


class AnswerNotRead(DeadlineExceeded):
    """The caller did not read its answer within the request's time."""

    def __init__(self) -> None:
        super().__init__("the answer was not read in the request's time", code="deadline_exceeded")


class RunControl(Protocol):
    """What a sink may do with the run that fills it."""

    def pause(self) -> None:
        """The caller does not read for now: soon the engine has to wait."""
        ...

    def resume(self) -> None: ...

    def cancel(self, reason: PointsmanError | None = None) -> None:
        """The caller has gone, or the run is to fail for `reason`."""
        ...


class ItemQueue(Generic[Item]):
    """Hands what a run produces to one reader, in lock step: the run pauses until the reader wants more."""

    def __init__(self) -> None:
        self.run: RunControl | None = None
        """Set by whoever starts the run; None again at its end."""
        self._items: deque[Item] = deque()
        self._is_closed = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, item: Item) -> None:
        self._items.append(item)
        if self.run is not None:
            self.run.pause()
        self._wake()

    def close(self, error: Exception | None = None) -> None:
        """After the last item. The reader gets the error after the items. Only the first call counts."""
        if not self._is_closed:
            self._is_closed, self._error = True, error
            self._wake()

    def detach(self) -> None:
        """The run is over."""
        self.run = None
        self.close()
        self._wake()

    def __aiter__(self) -> "ItemQueue[Item]":
        return self

    async def __anext__(self) -> Item:
        """Raises the error with which the run has failed."""
        while not self._items:
            if self._is_closed:
                error, self._error = self._error, None
                try:
                    raise error or StopAsyncIteration
                finally:
                    del error  # its traceback has this frame, which would hold it
            if self.run is not None:
                self.run.resume()
            if not self._items and not self._is_closed:
                await self._wait()
        return self._items.popleft()

    async def aclose(self) -> None:
        """The reader wants no more: stops the run, and returns once its receipt is written."""
        if self.run is not None:
            self.run.cancel()
            while self.run is not None:
                await self._wait()

    async def write_to(self, write: Callable[[Item], Awaitable[None]], deadline: float) -> None:
        """Writes every item. Raises the run's error, and AnswerNotRead if the peer does not take them in time.

        Whatever `write` raises stops the run.
        """
        try:
            async with asyncio.timeout_at(deadline + UNREAD_SECONDS):
                async for item in self:
                    await write(item)
        except TimeoutError as late:
            if self.run is not None:
                self.run.cancel(AnswerNotRead())
            raise AnswerNotRead from late
        finally:
            await self.aclose()

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
    """Implements `AnswerSink`: the events of one answer, to iterate over."""

    def started(self, started: Started) -> None:
        self.put(started)

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.put(chunks)

    def finished(self, finished: Finished) -> None:
        self.put(finished)

    def failed(self, error: PointsmanError) -> None:
        self.close(error)

    def closed(self) -> None:
        self.detach()


class CollectedAnswer:
    """Implements `AnswerSink`: one answer, to be awaited as a whole."""

    def __init__(self) -> None:
        self.run: RunControl | None = None
        """Set by whoever starts the run; None again at its end."""
        self.start: Started | None = None
        self.pieces: list[Chunk] = []
        self._finished: Finished | None = None
        self._error: PointsmanError | None = None
        self._over = asyncio.Event()

    async def whole(self) -> Finished:
        """Once it is complete. Raises the error with which the run has failed. Cancelling this stops the run."""
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            if self.run is not None:
                self.run.cancel()
                await self._over.wait()
            raise
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame, which would hold it
        assert self._finished is not None  # nobody else cancels the run
        return self._finished

    def started(self, started: Started) -> None:
        self.start = started

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.pieces.extend(chunks)

    def finished(self, finished: Finished) -> None:
        self._finished = finished

    def failed(self, error: PointsmanError) -> None:
        self._error = error

    def closed(self) -> None:
        self.run = None
        self._over.set()
