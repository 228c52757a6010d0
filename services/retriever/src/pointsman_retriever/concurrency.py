"""Thread pools for blocking work, limits on concurrent calls, and a readers-writer lock."""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Condition
from typing import ParamSpec, TypeVar

from pointsman_servicekit.errors import ResourceExhausted

SHARED_THREADS = 4  # changes of as many collections at once

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPool:
    """Runs blocking functions in threads, off the event loop.

    A call that is cancelled before it starts never runs; a call that has started runs to its end.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()  # carries the request id into the log lines of the thread
        return await asyncio.wrap_future(self._executor.submit(context.run, partial(work, *args, **kwargs)))

    def close(self) -> None:
        """Cancels the calls that wait for a thread, and waits until the running ones have ended."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class CallLimit:
    """Limits how many calls of one kind are in progress, including those that wait for a thread.

    Use from the event loop's thread only.
    """

    def __init__(self, what: str, slots: int) -> None:
        """Allows `slots` calls at once; `what` names the calls in the error message, in the plural ("searches")."""
        self._what = what
        self._slots = slots
        self._used = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Counts the block as a call in progress; raises ResourceExhausted ("overloaded") at once if the limit is
        reached.
        """
        if self._used >= self._slots:
            raise ResourceExhausted(
                f"the retriever is already working on {self._slots} {self._what}, its limit; try again later",
                code="overloaded",
                retry_after=1.0,
            )
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1


@dataclass(frozen=True, slots=True)
class ThreadPools:
    """The thread pools of the service, one for each kind of work, and the limits on concurrent calls.

    With separate pools, no kind of work waits for the threads of another one.
    """

    search: ThreadPool
    external: ThreadPool  # searches in other stores, which may hang
    shared: ThreadPool  # changes in the shared store, which may hang
    shared_reads: ThreadPool  # searches and reads in the shared store
    ingest: ThreadPool
    write: ThreadPool  # a single thread: changes are applied one after the other
    maintenance: ThreadPool  # verification, snapshots, compaction
    searches: CallLimit
    changes: CallLimit
    ingests: CallLimit
    reranks: CallLimit

    def close(self) -> None:
        for pool in (
            *(self.search, self.external, self.shared, self.shared_reads),
            *(self.ingest, self.maintenance, self.write),
        ):
            pool.close()


def make_thread_pools(search_threads: int, ingest_threads: int) -> ThreadPools:
    return ThreadPools(
        search=ThreadPool("search", search_threads),
        external=ThreadPool("external", search_threads),
        shared=ThreadPool("shared", SHARED_THREADS),
        shared_reads=ThreadPool("shared-read", search_threads),
        ingest=ThreadPool("ingest", ingest_threads),
        write=ThreadPool("write", 1),
        maintenance=ThreadPool("maintenance", 1),
        searches=CallLimit("searches", 256),
        changes=CallLimit("changes", 64),  # each may hold 32 MiB
        ingests=CallLimit("ingests", 16),
        reranks=CallLimit("rerankings", 64),  # each may hold 32 MiB
    )


class RWLock:
    """A readers-writer lock for threads, not reentrant. A waiting writer goes before readers that arrive after it."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._readers = 0
        self._has_writer = False
        self._waiting_writers = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Holds the lock for reading, shared with other readers."""
        with self._changed:
            self._changed.wait_for(lambda: not self._has_writer and not self._waiting_writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Holds the lock for writing, exclusively."""
        with self._changed:
            self._waiting_writers += 1
            try:
                self._changed.wait_for(lambda: not self._has_writer and not self._readers)
            finally:
                self._waiting_writers -= 1
            self._has_writer = True
        try:
            yield
        finally:
            with self._changed:
                self._has_writer = False
                self._changed.notify_all()
