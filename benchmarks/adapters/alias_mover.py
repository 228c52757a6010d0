"""Registers, promotes, rolls back and retires adapter versions every few seconds, and records the results."""

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
"""Timeout of one call."""
MAX_EXTENSION_SECONDS = 240.0
"""By how much a run may be extended until the needed moves have succeeded."""
LAST_CALLS_SECONDS = 45.0
"""How long pending calls may take after the last move was started."""


@dataclass(slots=True)
class MoveStatistics:
    """The seconds of each call by kind of move, and the moves that failed."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    """Number of rejected calls, by the kind of move and the server's message."""
    skipped: int = 0
    """Turns without a move, because every adapter was busy with an earlier one."""

    unanswered: int = 0
    """Number of calls that were cancelled at the end."""

    def count(self, kind: str) -> int:
        return len(self.seconds.get(kind, ()))


@dataclass(slots=True)
class ServedAdapter:
    """One adapter with the versions that are registered and those that wait."""

    name: str
    waiting: list[TrainedAdapter]
    """Versions that are not registered yet."""
    registered: dict[str, TrainedAdapter] = field(default_factory=dict)
    """By name, the registered versions; without retired ones and those whose registration has not finished."""
    previous: str = ""
    """The version to which a rollback would return."""
    busy: bool = False

    @property
    def alias(self) -> str:
        return f"{self.name}@{ALIAS_SUFFIX}"


class AliasMover:
    def __init__(self, services: Services, history: AliasHistory, texts: dict[str, str]) -> None:
        """Takes the services under test. Each change of an alias is recorded in `history`, and the text of each new
        version in `texts`.
        """
        self._services = services
        self._history = history
        self._texts = texts
        self._served: list[ServedAdapter] = []
        self._registering = False
        self.statistics = MoveStatistics()

    async def start(self, sets: Mapping[str, Sequence[TrainedAdapter]], initial_versions: int) -> None:
        """Registers the first `initial_versions` versions of each adapter and promotes the first one. Raises
        AioRpcError.
        """
        for name, members in sets.items():
            served = ServedAdapter(name, list(members))
            self._served.append(served)
            for _ in range(initial_versions):
                await self._register(served)
            await self._record_alias(served, self._services.promote(served.alias, next(iter(served.registered))))

    @property
    def aliases(self) -> dict[str, list[str]]:
        """By alias, its registered versions."""
        return {served.alias: list(served.registered) for served in self._served}

    async def run(self, until: float, interval: float, needed: Mapping[str, int] = {}) -> None:
        """Starts a move every `interval` seconds, until the monotonic clock reaches `until` and the `needed` number of
        moves of each kind has succeeded. Then waits for the pending calls.

        Calls that have not returned after LAST_CALLS_SECONDS are cancelled: a smoke test gets little processor time
        under load.
        """
        turns, kinds, due = cycle(self._served), cycle(MOVE_KINDS), time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        while due < until or (due < until + MAX_EXTENSION_SECONDS and self._lacks(needed)):
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

    def _lacks(self, needed: Mapping[str, int]) -> bool:
        return any(self.statistics.count(kind) < count for kind, count in needed.items())

    def _next_call(self, kind: str, served: ServedAdapter) -> "Coroutine[Any, Any, None] | None":
        """Returns a call that makes this kind of move, or None if the adapter cannot be moved in this way now."""
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
            # Moved to the end, so that the next promotion chooses another version.
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
    """Marks the adapter as busy, so that no two moves of it run at once; their order would be unknown."""
    served.busy = True
    try:
        yield
    finally:
        served.busy = False
