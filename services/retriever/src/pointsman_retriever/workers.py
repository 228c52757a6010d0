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


class Workers:
    """What is cancelled before its turn is never run; what has begun runs to its end."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()  # the request's id goes along, into the log lines
        return await asyncio.wrap_future(self._pool.submit(context.run, partial(work, *args, **kwargs)))

    def close(self) -> None:
        """Waits for what has begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Line:
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
class Crew:
    """Four sorts of work that never wait for each other's threads."""

    searching: Workers
    ingesting: Workers
    writing: Workers  # of one thread: changes come one after the other
    tending: Workers  # checks, copies, new indexes
    searches: Line
    changes: Line
    ingests: Line

    def close(self) -> None:
        for workers in (self.searching, self.ingesting, self.tending, self.writing):
            workers.close()


def make_crew(search_threads: int, ingest_threads: int) -> Crew:
    return Crew(
        searching=Workers("search", search_threads),
        ingesting=Workers("ingest", ingest_threads),
        writing=Workers("write", 1),
        tending=Workers("tend", 1),
        searches=Line("searches", 256),
        changes=Line("changes", 64),  # each may hold 32 MiB
        ingests=Line("ingests", 16),
    )
