"""Writes to collections: several waiting changes share a commit, and indexes are compacted in the background."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Any, ParamSpec, TypeVar

from pointsman_servicekit.errors import PointsmanError

from pointsman_retriever.collections.collection import Collection, StepResult
from pointsman_retriever.collections.shared import SharedCollection
from pointsman_retriever.concurrency import ThreadPool, ThreadPools
from pointsman_retriever.domain import CollectionInfo, EncodedDocument
from pointsman_retriever.shared.changes import ChangeStep
from pointsman_retriever.store.transaction import Change

log = logging.getLogger(__name__)

MAX_STEPS_PER_COMMIT = 256  # every caller in a commit waits for all of its steps

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
AnyChange = Change | ChangeStep
# One caller's steps, the documents that they put, and the future that receives their results.
_PendingSteps = tuple[
    Sequence[Callable[[AnyChange], Any]], Sequence[EncodedDocument], asyncio.Future[list[StepResult[Any]]]
]


class GroupCommitWriter:
    """Applies changes to one collection; the change of each caller is applied as a whole or not at all.

    The changes of callers that wait at the same time share one commit, so that the disk is written less often. Use from
    the event loop's thread only.
    """

    def __init__(self, collection: Collection | SharedCollection, write_pool: ThreadPool) -> None:
        self.collection = collection
        self._write_pool = write_pool
        self._pending: deque[_PendingSteps] = deque()
        self._drain: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keeps the collection from being changed in the block: changes wait until its end."""
        async with self._turn:
            yield

    async def write(
        self, step: Callable[[AnyChange], T], documents: Sequence[EncodedDocument] = ()
    ) -> tuple[T, CollectionInfo]:
        """Calls `step` to change the collection; returns the result of `step` and the collection's state after the
        change.

        `documents` are the documents that `step` writes. Raises what `step` raises, NotFound if the collection is
        closed, and storage errors (`translate_errors`) if the commit fails. If another change in the same commit raises
        an exception that is not a PointsmanError, this method raises it too, and nothing is applied. A call that is
        cancelled while it waits for an earlier commit is not applied.
        """
        (done,) = await self.write_each([step], documents)
        if isinstance(done.result, PointsmanError):
            raise done.result
        return done.result, done.info

    async def write_each(
        self, steps: Sequence[Callable[[AnyChange], T]], documents: Sequence[EncodedDocument] = ()
    ) -> list[StepResult[T]]:
        """Applies several changes of the collection in one commit. Each of `steps` is a function that makes one change.

        Returns the result of each step in order, or the PointsmanError that it raised. `documents` are the documents
        that the steps write; a shared collection writes most of them before it locks the collection.

        Raises NotFound if the collection is closed, and storage errors (`translate_errors`) if the commit fails.
        Changes of other callers can be in the same commit. If any change in it raises another exception than a
        PointsmanError, this method raises that exception, and no change of the commit is applied.
        """
        results: asyncio.Future[list[StepResult[T]]] = asyncio.get_running_loop().create_future()
        self._pending.append((steps, documents, results))
        if self._drain is None:
            self._drain = asyncio.create_task(self._write_all())
        return await results

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a function in the threads that make the collection's changes."""
        async with self._turn:
            return await self._write_pool.run(work, *args, **kwargs)

    async def _write_all(self) -> None:
        try:
            while self._pending:
                async with self._turn:
                    await self._write_group()
        finally:
            self._drain = None

    async def _write_group(self) -> None:
        group = self._take_group()
        change: Callable[[Sequence[Callable[[Any], Any]]], list[StepResult[Any]]] = self.collection.change
        if isinstance(self.collection, SharedCollection):
            documents = {one.document.id: one for _, put, _ in group for one in put}
            change = partial(self.collection.change, prepared=list(documents.values()))
        try:
            done = await self._write_pool.run(change, [step for steps, _, _ in group for step in steps])
        except BaseException as error:
            for *_, results in group:
                if not results.done():
                    results.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
        else:
            each = iter(done)
            for steps, _, results in group:
                theirs = list(islice(each, len(steps)))
                if not results.done():
                    results.set_result(theirs)

    def _take_group(self) -> list[_PendingSteps]:
        """Takes the calls that have waited longest, until they have MAX_STEPS_PER_COMMIT changes or more.

        Drops calls that were cancelled.
        """
        group: list[_PendingSteps] = []
        count = 0
        while self._pending and count < MAX_STEPS_PER_COMMIT:
            steps, documents, results = self._pending.popleft()
            if not results.done():
                group.append((steps, documents, results))
                count += len(steps)
        return group


class Compactor:
    """Rebuilds a collection's indexes in the background, for example after many changes.

    A rebuild leaves out deleted rows, which makes searches faster and frees memory. Use from the event loop's thread
    only.
    """

    def __init__(self, pools: ThreadPools) -> None:
        self._pools = pools
        self._tasks: dict[GroupCommitWriter, asyncio.Task[None]] = {}

    def compact_if_needed(self, writer: GroupCommitWriter) -> None:
        """Starts a compaction if the collection's indexes need one and none runs; to be called after each change."""
        collection = writer.collection
        if isinstance(collection, Collection) and collection.needs_compaction and writer not in self._tasks:
            task = asyncio.create_task(self._compact(collection))
            self._tasks[writer] = task
            task.add_done_callback(lambda _: self._tasks.pop(writer))

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _compact(self, collection: Collection) -> None:
        try:
            compact = await self._pools.write.run(collection.begin_compaction)
            compacted = await self._pools.maintenance.run(compact)
            await self._pools.write.run(collection.finish_compaction, compacted)
            log.info("rebuilt the index of collection %s", collection.info.id)
        except Exception as error:
            if isinstance(error, PointsmanError):
                log.warning("the index of collection %s is not rebuilt: %s", collection.info.id, error)
            else:
                log.exception("cannot rebuild the index of collection %s", collection.info.id)
            await self._pools.write.run(collection.abort_compaction)
