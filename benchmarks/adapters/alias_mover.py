"""Moves the history every few seconds: registers, promotes, rolls back and retires versions; notes what came of it."""

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

from benchmarks.adapters.adapters import TrainedAdapter
from benchmarks.adapters.services import ALIAS_SUFFIX, Services
from benchmarks.adapters.verdicts import AliasHistory

MOVE_KINDS = ("promote", "register", "promote", "rollback", "promote", "retire", "rollback", "promote")
CALL_SECONDS = 120.0
"""Seconds that a call may take."""
LAST_CALLS_SECONDS = 45.0
"""Seconds that calls get after the last move was begun."""


@dataclass(slots=True)
class MoveStatistics:
    """What was done, and how long each call took in seconds."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    """By kind, with the server's words."""
    skipped: int = 0
    """Turns at which nothing could be moved, since everything was busy with an earlier move."""

    unanswered: int = 0
    """Calls that were given up at the end; what they started goes on without them."""

    def count(self, kind: str) -> int:
        return len(self.seconds.get(kind, ()))


@dataclass(slots=True)
class ServedAdapter:
    """One adapter."""

    name: str
    waiting: list[TrainedAdapter]
    """To be registered."""
    registered: dict[str, TrainedAdapter] = field(default_factory=dict)
    """By version; neither retired nor still being tried."""
    previous: str = ""
    """Where a rollback would point to."""
    busy: bool = False

    @property
    def alias(self) -> str:
        return f"{self.name}@{ALIAS_SUFFIX}"


class AliasMover:
    def __init__(self, services: Services, history: AliasHistory, texts: dict[str, str]) -> None:
        """Keeps `history` and `texts` true: where aliases point, and what each version says."""
        self._services = services
        self._history = history
        self._texts = texts
        self._served: list[ServedAdapter] = []
        self._registering = False
        self.statistics = MoveStatistics()

    async def start(self, sets: Mapping[str, Sequence[TrainedAdapter]], initial_versions: int) -> None:
        """Registers the first `initial_versions` of each; the first of all serves. Raises AioRpcError."""
        for name, members in sets.items():
            served = ServedAdapter(name, list(members))
            self._served.append(served)
            for _ in range(initial_versions):
                await self._register(served)
            await self._record_alias(served, self._services.promote(served.alias, next(iter(served.registered))))

    @property
    def aliases(self) -> dict[str, list[str]]:
        """The registered versions of each."""
        return {served.alias: list(served.registered) for served in self._served}

    async def run(self, until: float, interval: float) -> None:
        """A move each `every` seconds until `ends` of the monotonic clock; returns when the calls are answered.

        A trial beside a full load gets what processor time is left over: one that goes on for ever is not waited for.
        """
        turns, kinds, due = cycle(self._served), cycle(MOVE_KINDS), time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        while due < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += interval
            kind = next(kinds)
            call = next(filter(None, (self._next_call(kind, next(turns)) for _ in self._served)), None)
            if call is None:
                self.statistics.skipped += 1
            else:
                calls.add(asyncio.create_task(self._time_call(kind, call)))
        done, unanswered = await asyncio.wait(calls, timeout=LAST_CALLS_SECONDS)
        self.statistics.unanswered = len(unanswered)
        for late in unanswered:
            late.cancel()
        await asyncio.gather(*unanswered, return_exceptions=True)
        for one in done:
            one.result()

    def _next_call(self, kind: str, served: ServedAdapter) -> "Coroutine[Any, Any, None] | None":
        """None where this adapter cannot be moved so now."""
        if kind == "register":
            if self._registering or not served.waiting:
                return None
            self._registering = True
            return self._register_next(served)
        if served.busy:
            return None
        now = self._history.current_version(served.alias)
        others = [version for version in served.registered if version != now]
        if kind == "promote" and others:
            return self._change_alias(served, self._services.promote(served.alias, others[0]), to=others[0])
        if kind == "rollback" and served.previous in others:
            return self._change_alias(served, self._services.rollback(served.alias), to=served.previous)
        unneeded = [version for version in others if version != served.previous]
        if kind == "retire" and unneeded:
            return self._retire(served, unneeded[0])
        return None

    async def _time_call(self, kind: str, call: Awaitable[None]) -> None:
        started = time.monotonic()
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.statistics.refused[f"{kind}: {error.code().name}: {(error.details() or '')[:160]}"] += 1
        else:
            self.statistics.seconds.setdefault(kind, []).append(time.monotonic() - started)

    async def _register_next(self, served: ServedAdapter) -> None:
        try:
            await self._register(served)
        finally:
            self._registering = False

    async def _register(self, served: ServedAdapter) -> None:
        adapter = served.waiting.pop(0)
        try:
            version = await self._services.register(served.name, adapter.folder)
        except grpc.aio.AioRpcError:
            served.waiting.append(adapter)
            raise
        self._texts[version] = adapter.known.text
        served.registered[version] = adapter

    async def _change_alias(self, served: ServedAdapter, call: Awaitable[pb.Alias], to: str) -> None:
        with _busy(served):
            # It goes to the end: the next promotion takes another.
            served.registered[to] = served.registered.pop(to)
            await self._record_alias(served, call)

    async def _record_alias(self, served: ServedAdapter, call: Awaitable[pb.Alias]) -> None:
        alias = await self._history.record_call(served.alias, call)
        served.previous = alias.previous

    async def _retire(self, served: ServedAdapter, version: str) -> None:
        with _busy(served):
            adapter = served.registered.pop(version)
            await self._services.stub.Retire(
                pb.RetireRequest(version=version, author="measurement"), timeout=CALL_SECONDS
            )
            served.waiting.append(adapter)


@contextmanager
def _busy(served: ServedAdapter) -> Iterator[None]:
    """No two moves of one adapter at once: which came first would not be known."""
    served.busy = True
    try:
        yield
    finally:
        served.busy = False
