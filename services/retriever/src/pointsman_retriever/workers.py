"""Blocking work, off the event loop: a few threads for each sort of work, and a bounded line before them."""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from pointsman_servicekit.errors import ResourceExhausted

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPool:
    """What is cancelled before its turn is never run; what has begun runs to its end."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()  # the request's id goes along, into the log lines
        return await asyncio.wrap_future(self._pool.submit(context.run, partial(work, *args, **kwargs)))

    def close(self) -> None:
        """Waits for what has begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class CallLimit:
    """How many calls may be inside at once, those that wait among them. For the event loop's thread."""

    def __init__(self, what: str, places: int) -> None:
        self._what = what
        self._places = places
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises ResourceExhausted where the line is full."""
        if self._taken >= self._places:
            raise ResourceExhausted(
                f"the retriever has {self._places} {self._what} in hand, as many as it takes; come again",
                code="overloaded",
                retry_after=1.0,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


@dataclass(frozen=True, slots=True)
class ThreadPools:
    """Four sorts of work that never wait for each other's threads."""

    searching: ThreadPool
    ingesting: ThreadPool
    writing: ThreadPool  # of one thread: changes come one after the other
    tending: ThreadPool  # checks, copies, new indexes
    searches: CallLimit
    changes: CallLimit
    ingests: CallLimit

    def close(self) -> None:
        for workers in (self.searching, self.ingesting, self.tending, self.writing):
            workers.close()


def make_thread_pools(search_threads: int, ingest_threads: int) -> ThreadPools:
    return ThreadPools(
        searching=ThreadPool("search", search_threads),
        ingesting=ThreadPool("ingest", ingest_threads),
        writing=ThreadPool("write", 1),
        tending=ThreadPool("tend", 1),
        searches=CallLimit("searches", 256),
        changes=CallLimit("changes", 64),  # each may hold 32 MiB
        ingests=CallLimit("ingests", 16),
    )
