"""What is true now, in one place: it is changed here, and everyone who watches is told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pointsman_lora_server.domain import Alias, EngineState, EngineStatus

LEAVING = "it is leaving: it ends what it has begun"

_NOTHING: frozenset[str] = frozenset()
NO_TRAININGS: Mapping[str, float] = {}


class EngineStateStore:
    """Two things hold whoever changes it: an engine that does not answer holds nothing, and what is resident is not
    on its way in or out, nor told as loadable."""

    def __init__(self, heartbeat: float = 5.0) -> None:
        """`heartbeat`: seconds after which an unchanged state is told again; the contract promises 10 at most."""
        self._heartbeat = heartbeat
        self._state = EngineState()
        self._ready: frozenset[str] = _NOTHING
        self._lost: frozenset[str] = _NOTHING
        self._changed = asyncio.Event()
        self._left = False
        self._closed = False

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def closed(self) -> bool:
        return self._closed

    def update(self, **changes: Any) -> None:
        """Sets fields of the state; what changes nothing is not told."""
        changed = replace(self._state, **changes)
        if self._left:
            changed = replace(changed, status=EngineStatus.DOWN, detail=LEAVING)
        if changed.status is EngineStatus.READY:
            changed = replace(
                changed,
                loading=changed.loading - changed.resident,
                draining=changed.draining - changed.resident,
                loadable=self._ready - changed.resident,
            )
        else:
            self._lost |= self._state.resident
            changed = replace(changed, resident=_NOTHING, loading=_NOTHING, draining=_NOTHING, loadable=_NOTHING)
        if changed == self._state:
            return
        self._state = replace(changed, sequence=self._state.sequence + 1)
        self._wake()

    def publish(
        self, aliases: tuple[Alias, ...], ready: frozenset[str], training_seconds: Mapping[str, float] = NO_TRAININGS
    ) -> None:
        """Where the aliases point, which versions any engine may hold, and how long their trainings took."""
        self._ready = ready
        self.update(aliases=aliases, training_seconds=training_seconds)

    def loads(self, version: str) -> None:
        self.update(loading=self._state.loading | {version}, draining=self._state.draining - {version})

    def loads_no_more(self, version: str) -> None:
        """It did not come to that."""
        self.update(loading=self._state.loading - {version})

    def holds(self, version: str) -> None:
        """From now on gateways may ask for it."""
        self.update(resident=self._state.resident | {version})

    def drains(self, version: str) -> None:
        """From now on gateways ask for it no more."""
        self.update(resident=self._state.resident - {version}, draining=self._state.draining | {version})

    def holds_no_more(self, version: str) -> None:
        """Its weights are gone."""
        self.update(draining=self._state.draining - {version})

    def take_lost(self) -> frozenset[str]:
        """What was resident whenever the engine's lives ended, since this was last asked."""
        lost, self._lost = self._lost, _NOTHING
        return lost

    def leave(self) -> None:
        """For good: gateways are to ask others. What the engine has begun it ends; it holds nothing for anyone new."""
        self._left = True
        self.update()

    def close(self) -> None:
        """Ends every watch."""
        self._closed = True
        self._wake()

    async def watch(self) -> AsyncIterator[EngineState]:
        """The state now, after each change, and after each heartbeat; quick changes may be told as one."""
        while not self._closed:
            changed = self._changed
            yield self._state
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await changed.wait()

    async def until_other_than(self, seen: EngineState, seconds: float) -> None:
        """Waits until the state is another than the one that was `seen`, `seconds` at most."""
        changed = self._changed
        if self._state is not seen or self._closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
