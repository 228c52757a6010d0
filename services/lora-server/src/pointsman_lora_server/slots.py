"""The engine's adapter slots: which are taken, whose turn it is to go, and how one goes without a cut answer."""

import asyncio
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pointsman_servicekit.errors import ResourceExhausted

from pointsman_lora_server.board import EngineStateStore

LOOK = 0.05
"""Seconds between two looks at an engine whose slots are all in use."""

PATIENCE = 1.0
"""Seconds that a load waits for an adapter to fall idle by itself; then the least used one is closed, so that it does:
under a steady load none might ever."""

PROMISED = 1.0
"""Seconds for which a version that was asked for stays, though its request has not come yet."""


class Usage(Protocol):
    """What the engine tells of an adapter that it holds."""

    @property
    def in_flight(self) -> int: ...
    @property
    def idle_seconds(self) -> float: ...
    @property
    def open(self) -> bool: ...


class SlotEngine(Protocol):
    """`VllmApi` says what each raises."""

    async def adapters(self) -> Mapping[str, Usage]: ...
    async def load(self, version: str, folder: Path) -> None: ...
    async def close(self, version: str) -> int: ...
    async def remove(self, version: str) -> bool: ...


class EvictionMeter(Protocol):
    def evicted(self, why: str) -> None: ...
    def waited_for_slot(self, seconds: float) -> None: ...


class AdapterSlots:
    """Nothing here says what is in use: the engine is asked, whenever it is needed. Callers take turns."""

    def __init__(self, engine: SlotEngine, board: EngineStateStore, slots: int, meter: EvictionMeter) -> None:
        self._engine = engine
        self._board = board
        self._slots = slots
        self._meter = meter
        self.pinned: frozenset[str] = frozenset()
        self.placed: frozenset[str] = frozenset()
        self._folders: dict[str, Path] = {}
        self._promised: dict[str, float] = {}

    async def held(self) -> Mapping[str, Usage]:
        """What the engine itself says that it holds."""
        return await self._engine.adapters()

    def taken(self, version: str, folder: Path) -> None:
        """Notes where a version lies that the engine is about to hold."""
        self._folders[version] = folder

    def promise(self, version: str) -> None:
        """Someone was just told that the version is there, and is about to ask for it."""
        now = time.monotonic()
        self._promised = {name: since for name, since in self._promised.items() if now - since < PROMISED}
        self._promised[version] = now

    async def make_room(self, version: str, until: float) -> None:
        """Returns once the engine has a slot for `version`; adapters that are needed less go, and none that is in use.

        `until`: on the clock of `time.monotonic`. Raises ResourceExhausted ("no_slot") then.
        """
        started = time.monotonic()
        while True:
            asked = time.monotonic()
            held = await self._engine.adapters()
            if version in held or len(held) < self._slots:
                self._meter.waited_for_slot(time.monotonic() - started)
                return
            kept = self.pinned | self._board.state.loading
            mine = {name: usage for name, usage in held.items() if name not in kept}
            if self.pinned >= held.keys() or time.monotonic() >= until:
                self._meter.waited_for_slot(time.monotonic() - started)
                raise self._no_slot(version, held)
            victim = self._idle(mine, asked)
            if victim is None and time.monotonic() - started > PATIENCE:
                victim = self._least_used(mine, asked)
                if victim is not None:
                    await self._let_promised_ask(victim)
            if victim is None:
                await asyncio.sleep(LOOK)
            else:
                await self.evict(victim, until)

    async def has_room(self, version: str) -> bool:
        """Whether there is a slot for `version` at the expense of none but idle versions that are wanted less."""
        asked = time.monotonic()
        held = await self._engine.adapters()
        if version in held or len(held) < self._slots:
            return True
        victim, wanted = None, self.pinned | self.placed
        if version in wanted:
            above = self.pinned if version in self.pinned else wanted
            above |= self._board.state.loading
            victim = self._idle({name: usage for name, usage in held.items() if name not in above}, asked)
        if victim is None:
            return False
        await self.evict(victim, time.monotonic())
        return len(await self._engine.adapters()) < self._slots

    async def evict(self, version: str, until: float = math.inf, why: str = "room") -> bool:
        """The board first, so that gateways stop asking; then the name, so that nobody can; then the weights, once the
        last answer in flight has ended. Where that takes longer than `until`, the version stays: False."""
        self._board.drains(version)
        await self._engine.close(version)
        while not await self._engine.remove(version):
            if time.monotonic() >= until and version in self._folders:
                await self._engine.load(version, self._folders[version])  # its weights are there: it opens the name
                self._board.holds(version)
                return False
            await asyncio.sleep(LOOK)
        self._board.holds_no_more(version)
        self._meter.evicted(why)
        return True

    def _idle(self, held: Mapping[str, Usage], asked: float) -> str | None:
        """Of those not in use the one that is missed least: closed already, not placed here, longest idle.

        None also where that one was promised to someone: a moment later it is not. `asked`: when the engine was.
        """

        def missed(name: str) -> tuple[bool, bool, bool, float]:
            usage = held[name]
            return usage.open, name in self.placed, self._is_promised(name, usage, asked), -usage.idle_seconds

        idle = min((name for name, usage in held.items() if not usage.in_flight), key=missed, default=None)
        return None if idle is None or self._is_promised(idle, held[idle], asked) else idle

    def _least_used(self, held: Mapping[str, Usage], asked: float) -> str | None:
        return min(
            (name for name, usage in held.items() if usage.open),
            key=lambda name: (
                name in self.placed,
                self._is_promised(name, held[name], asked),
                held[name].in_flight,
                name,
            ),
            default=None,
        )

    async def _let_promised_ask(self, version: str) -> None:
        """Promises no more, and gives whoever holds a promise the time to use it: under a steady load one is always
        open, so waiting for a moment without any could take for ever."""
        self._board.drains(version)
        while True:
            asked = time.monotonic()
            usage = (await self._engine.adapters()).get(version)
            if usage is None or not self._is_promised(version, usage, asked):
                return
            await asyncio.sleep(LOOK)

    def _is_promised(self, name: str, usage: Usage, asked: float) -> bool:
        since = self._promised.get(name)
        if since is None or time.monotonic() - since >= PROMISED:
            return False
        # Not asked for since it was promised. The idle time is of when the engine was asked: measured against now, a
        # promise would be broken wherever its answer is slow.
        return usage.open and usage.idle_seconds >= asked - since

    def _no_slot(self, version: str, held: Mapping[str, Usage]) -> ResourceExhausted:
        holders = ", ".join(
            f"{name} ({'pinned' if name in self.pinned else f'{usage.in_flight} in flight'})"
            for name, usage in sorted(held.items())
        )
        return ResourceExhausted(
            f"no slot for {version}: all {self._slots} (POINTSMAN_LORA_MAX_LORAS) are pinned or in use: {holders}",
            code="no_slot",
            retry_after=1.0,
        )
