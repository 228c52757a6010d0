"""Changes on their way to the disk: those that wait together are committed together, with one wait for the disk."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from pointsman_servicekit.errors import PointsmanError

from pointsman_retriever.domain import Collection
from pointsman_retriever.shelf import Done, Shelf
from pointsman_retriever.store.change import Change
from pointsman_retriever.workers import Workers

MOST_TOGETHER = 256  # callers; who waits for the disk waits for all of them

T = TypeVar("T")
_Waiting = tuple[Callable[[Change], Any], asyncio.Future[Done[Any]]]


class Pen:
    """Writes to one shelf. For the event loop's thread."""

    def __init__(self, shelf: Shelf, writing: Workers) -> None:
        self.shelf = shelf
        self._writing = writing
        self._waiting: deque[_Waiting] = deque()
        self._drain: asyncio.Task[None] | None = None

    async def write(self, step: Callable[[Change], T]) -> tuple[T, Collection]:
        """Returns the step's result, and the collection right after it.

        Raises what the step raises, or what the disk says. What is cancelled in the line is never run.
        """
        ours: asyncio.Future[Done[T]] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, ours))
        if self._drain is None:
            self._drain = asyncio.create_task(self._write_all())
        done = await ours
        if isinstance(done.result, PointsmanError):
            raise done.result
        return done.result, done.collection

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write_those_waiting()
        finally:
            self._drain = None

    async def _write_those_waiting(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_TOGETHER))]
        together = [(step, ours) for step, ours in taken if not ours.done()]
        try:
            done = await self._writing.run(self.shelf.change, [step for step, _ in together])
        except BaseException as error:
            for _, ours in together:
                if not ours.done():
                    ours.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
        else:
            for (_, ours), one in zip(together, done, strict=True):
                if not ours.done():
                    ours.set_result(one)
