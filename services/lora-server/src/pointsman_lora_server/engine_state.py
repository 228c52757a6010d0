"""The one place that holds the engine's current state. Watchers are notified of every change."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pointsman_lora_server.domain import Alias, EngineState, EngineStatus

SHUTTING_DOWN = "shutting down: requests in flight are finished"

_EMPTY: frozenset[str] = frozenset()
NO_TRAINING_SECONDS: Mapping[str, float] = {}


class EngineStateStore:
    """Keeps two invariants, whoever changes the state: an engine that is not READY holds nothing, and a resident
    version is not listed as loading, draining or loadable."""

    def __init__(self, heartbeat: float = 5.0) -> None:
        """`heartbeat`: seconds after which watchers receive an unchanged state again. The API promises 10 at most."""
        self._heartbeat = heartbeat
        self._state = EngineState()
        self._ready: frozenset[str] = _EMPTY
        self._lost: frozenset[str] = _EMPTY
        self._changed = asyncio.Event()
        self._shutting_down = False
        self._closed = False

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def closed(self) -> bool:
        return self._closed

    def update(self, **changes: Any) -> None:
        """Sets fields of the state. Watchers are not notified if nothing changes."""
        changed = replace(self._state, **changes)
        if self._shutting_down:
            changed = replace(changed, status=EngineStatus.DOWN, detail=SHUTTING_DOWN)
        if changed.status is EngineStatus.READY:
            changed = replace(
                changed,
                loading=changed.loading - changed.resident,
                draining=changed.draining - changed.resident,
                loadable=self._ready - changed.resident,
            )
        else:
            self._lost |= self._state.resident
            changed = replace(changed, resident=_EMPTY, loading=_EMPTY, draining=_EMPTY, loadable=_EMPTY)
        if changed == self._state:
            return
        self._state = replace(changed, sequence=self._state.sequence + 1)
        self._notify()

    def set_desired(
        self,
        aliases: tuple[Alias, ...],
        ready: frozenset[str],
        training_seconds: Mapping[str, float] = NO_TRAINING_SECONDS,
    ) -> None:
        """Publishes where the aliases point, which versions any engine may load, and how long their trainings took."""
        self._ready = ready
        self.update(aliases=aliases, training_seconds=training_seconds)

    def mark_loading(self, version: str) -> None:
        self.update(loading=self._state.loading | {version}, draining=self._state.draining - {version})

    def cancel_loading(self, version: str) -> None:
        """The load failed or was given up."""
        self.update(loading=self._state.loading - {version})

    def mark_resident(self, version: str) -> None:
        """From now on gateways may send requests for the version."""
        self.update(resident=self._state.resident | {version})

    def mark_draining(self, version: str) -> None:
        """From now on gateways send no new requests for the version."""
        self.update(resident=self._state.resident - {version}, draining=self._state.draining | {version})

    def mark_unloaded(self, version: str) -> None:
        """The engine no longer holds its weights."""
        self.update(draining=self._state.draining - {version})

    def pop_lost(self) -> frozenset[str]:
        """Returns the versions that were resident when the engine went down, since the last call."""
        lost, self._lost = self._lost, _EMPTY
        return lost

    def start_shutdown(self) -> None:
        """Reports the engine as DOWN from now on, so that gateways use other engines. Requests in flight finish."""
        self._shutting_down = True
        self.update()

    def close(self) -> None:
        """Ends every `watch`."""
        self._closed = True
        self._notify()

    async def watch(self) -> AsyncIterator[EngineState]:
        """Yields the current state, then the state after each change and each heartbeat. Changes in quick succession
        may be combined."""
        while not self._closed:
            changed = self._changed
            yield self._state
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await changed.wait()

    async def wait_for_other_than(self, known: EngineState, timeout_seconds: float) -> None:
        """Waits until the state differs from `known`, for `timeout_seconds` at most."""
        changed = self._changed
        if self._state is not known or self._closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
