"""Moves the points every few seconds: registers, promotes, rolls back and retires versions; notes what came of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2 as pb

from benchmarks.adapters.adapters import Trained
from benchmarks.adapters.configuration import WORD
from benchmarks.adapters.house import House
from benchmarks.adapters.verdicts import Points

ROUND = ("promote", "register", "promote", "rollback", "promote", "retire", "rollback", "promote")
SERVER_MOVES = 120.0
"""Seconds that a call may take."""
LAST_CALLS = 45.0
"""Seconds that calls get after the last move was begun."""


@dataclass(slots=True)
class Moved:
    """What was done, and how long each call took in seconds."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    """By kind, with the server's words."""
    skipped: int = 0
    """Turns at which nothing could be moved, since everything was busy with an earlier move."""

    unanswered: int = 0
    """Calls that were given up at the end; what they began goes on without them."""

    def done(self, kind: str) -> int:
        return len(self.seconds.get(kind, ()))


@dataclass(slots=True)
class Line:
    """One adapter."""

    name: str
    waiting: list[Trained]
    """To be registered."""
    registered: dict[str, Trained] = field(default_factory=dict)
    """By version; neither retired nor still being tried."""
    previous: str = ""
    """Where a rollback would point to."""
    busy: bool = False

    @property
    def alias(self) -> str:
        return f"{self.name}@{WORD}"


class Mover:
    def __init__(self, house: House, points: Points, texts: dict[str, str]) -> None:
        """Keeps `points` and `texts` true: where aliases point, and what each version says."""
        self._house = house
        self._points = points
        self._texts = texts
        self._lines: list[Line] = []
        self._registering = False
        self.moved = Moved()

    async def begin(self, sets: Mapping[str, Sequence[Trained]], at_first: int) -> None:
        """Registers the first `at_first` of each; the first of all serves. Raises AioRpcError."""
        for name, members in sets.items():
            line = Line(name, list(members))
            self._lines.append(line)
            for _ in range(at_first):
                await self._register(line)
            await self._point(line, self._house.promote(line.alias, next(iter(line.registered))))

    @property
    def aliases(self) -> dict[str, list[str]]:
        """The registered versions of each."""
        return {line.alias: list(line.registered) for line in self._lines}

    async def move_on(self, ends: float, every: float) -> None:
        """A move each `every` seconds until `ends` of the monotonic clock; returns when the calls are answered.

        A trial beside a full load gets what processor time is left over: one that goes on for ever is not waited for.
        """
        turns, kinds, due = cycle(self._lines), cycle(ROUND), time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        while due < ends:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += every
            kind = next(kinds)
            call = next(filter(None, (self._call(kind, next(turns)) for _ in self._lines)), None)
            if call is None:
                self.moved.skipped += 1
            else:
                calls.add(asyncio.create_task(self._timed(kind, call)))
        done, unanswered = await asyncio.wait(calls, timeout=LAST_CALLS)
        self.moved.unanswered = len(unanswered)
        for late in unanswered:
            late.cancel()
        await asyncio.gather(*unanswered, return_exceptions=True)
        for one in done:
            one.result()

    def _call(self, kind: str, line: Line) -> "Coroutine[Any, Any, None] | None":
        """None where this adapter cannot be moved so now."""
        if kind == "register":
            if self._registering or not line.waiting:
                return None
            self._registering = True
            return self._registering_one(line)
        if line.busy:
            return None
        now = self._points.now(line.alias)
        others = [version for version in line.registered if version != now]
        if kind == "promote" and others:
            return self._moving(line, self._house.promote(line.alias, others[0]), to=others[0])
        if kind == "rollback" and line.previous in others:
            return self._moving(line, self._house.rollback(line.alias), to=line.previous)
        unneeded = [version for version in others if version != line.previous]
        if kind == "retire" and unneeded:
            return self._retiring(line, unneeded[0])
        return None

    async def _timed(self, kind: str, call: Awaitable[None]) -> None:
        began = time.monotonic()
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.moved.refused[f"{kind}: {error.code().name}: {(error.details() or '')[:160]}"] += 1
        else:
            self.moved.seconds.setdefault(kind, []).append(time.monotonic() - began)

    async def _registering_one(self, line: Line) -> None:
        try:
            await self._register(line)
        finally:
            self._registering = False

    async def _register(self, line: Line) -> None:
        adapter = line.waiting.pop(0)
        try:
            version = await self._house.register(line.name, adapter.folder)
        except grpc.aio.AioRpcError:
            line.waiting.append(adapter)
            raise
        self._texts[version] = adapter.known.text
        line.registered[version] = adapter

    async def _moving(self, line: Line, call: Awaitable[pb.Alias], to: str) -> None:
        with _busy(line):
            # It goes to the end: the next promotion takes another.
            line.registered[to] = line.registered.pop(to)
            await self._point(line, call)

    async def _point(self, line: Line, call: Awaitable[pb.Alias]) -> None:
        moved = await self._points.moving(line.alias, call)
        line.previous = moved.previous

    async def _retiring(self, line: Line, version: str) -> None:
        with _busy(line):
            adapter = line.registered.pop(version)
            await self._house.stub.Retire(pb.RetireRequest(version=version, author="measurement"), timeout=SERVER_MOVES)
            line.waiting.append(adapter)


@contextmanager
def _busy(line: Line) -> Iterator[None]:
    """No two moves of one adapter at once: which came first would not be known."""
    line.busy = True
    try:
        yield
    finally:
        line.busy = False
