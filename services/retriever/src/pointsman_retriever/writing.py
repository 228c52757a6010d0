"""Changes on their way to the disk: those that wait together are committed together, with one wait for the disk."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

from pointsman_servicekit.errors import PointsmanError

from pointsman_retriever.domain import CollectionInfo
from pointsman_retriever.shelf import Collection, StepResult
from pointsman_retriever.store.change import Change
from pointsman_retriever.workers import ThreadPool

MAX_STEPS_PER_COMMIT = 256  # steps; who waits for the disk waits for all of them

T = TypeVar("T")
_PendingSteps = tuple[Sequence[Callable[[Change], Any]], asyncio.Future[list[StepResult[Any]]]]  # a caller's steps


class GroupCommitWriter:
    """Writes to one shelf. For the event loop's thread."""

    def __init__(self, shelf: Collection, writing: ThreadPool) -> None:
        self.shelf = shelf
        self._writing = writing
        self._waiting: deque[_PendingSteps] = deque()
        self._drain: asyncio.Task[None] | None = None

    async def write(self, step: Callable[[Change], T]) -> tuple[T, CollectionInfo]:
        """Returns the step's result, and the collection right after it.

        Raises what the step raises, or what the disk says. What is cancelled in the line is never run.
        """
        (done,) = await self.write_each([step])
        if isinstance(done.result, PointsmanError):
            raise done.result
        return done.result, done.collection

    async def write_each(self, steps: Sequence[Callable[[Change], T]]) -> list[StepResult[T]]:
        """The same for several, each kept or refused by itself; raises only what the disk says."""
        ours: asyncio.Future[list[StepResult[T]]] = asyncio.get_running_loop().create_future()
        self._waiting.append((steps, ours))
        if self._drain is None:
            self._drain = asyncio.create_task(self._write_all())
        return await ours

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write_those_waiting()
        finally:
            self._drain = None

    async def _write_those_waiting(self) -> None:
        together = self._taken()
        try:
            done = await self._writing.run(self.shelf.change, [step for steps, _ in together for step in steps])
        except BaseException as error:
            for _, ours in together:
                if not ours.done():
                    ours.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
        else:
            each = iter(done)
            for steps, ours in together:
                theirs = list(islice(each, len(steps)))
                if not ours.done():
                    ours.set_result(theirs)

    def _taken(self) -> list[_PendingSteps]:
        """Those at the head of the line whose callers still wait."""
        taken: list[_PendingSteps] = []
        count = 0
        while self._waiting and count < MAX_STEPS_PER_COMMIT:
            steps, ours = self._waiting.popleft()
            if not ours.done():
                taken.append((steps, ours))
                count += len(steps)
        return taken
