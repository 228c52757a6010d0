"""Stores the latest known state of the engine for all parts of this process, and yields its changes to watchers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pointsman_lora_server.domain import Alias, ChangeLog, EngineState, EngineStatus

SHUTTING_DOWN = "shutting down: requests in flight are finished"

_EMPTY: frozenset[str] = frozenset()


class EngineStateStore:
    """Holds the engine's state, and notifies watchers of its changes.

    It keeps two invariants: an engine that is not READY holds, loads and drains nothing, and a resident version is not
    listed as loading or draining.
    """

    def __init__(self, heartbeat: float = 5.0) -> None:
        """Takes `heartbeat`: the seconds after which watchers get an unchanged state again. The API promises at most
        10.
        """
        self._heartbeat = heartbeat
        self._state = EngineState()
        self._log = ChangeLog(self._state.sequence)
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
        """Sets the named fields of the `EngineState`, then restores the invariants that the class describes.

        Watchers are not notified if nothing changes. After `start_shutdown`, the status stays DOWN.
        """
        self._update(_EMPTY, changes)

    def _update(self, changed_names: frozenset[str] | None, changes: Mapping[str, Any]) -> None:
        """Does the work of `update`; `changed_names` are the aliases and ready versions that differ (None: any may)."""
        before, changed = self._state, replace(self._state, **changes)
        if self._shutting_down:
            changed = replace(changed, status=EngineStatus.DOWN, detail=SHUTTING_DOWN)
        if changed.status is EngineStatus.READY:
            changed = replace(
                changed, loading=changed.loading - changed.resident, draining=changed.draining - changed.resident
            )
        else:
            self._lost |= before.resident
            changed = replace(changed, resident=_EMPTY, loading=_EMPTY, draining=_EMPTY)
        if changed == before and changed_names == _EMPTY:
            return
        self._state = replace(changed, sequence=before.sequence + 1)
        if changed.status is not before.status:
            changed_names = None
        self._log = self._log.append(
            None if changed_names is None else changed_names | (changed.resident ^ before.resident)
        )
        self._notify()

    def set_desired(
        self, aliases: tuple[Alias, ...], ready: Mapping[str, float | None], changed: frozenset[str] | None = None
    ) -> None:
        """Publishes where the aliases point, and which versions any engine may load.

        `ready` maps these versions to the seconds that their training took, None if unknown. `changed` has the names of
        the aliases and versions that differ from the last call; None if any may differ.
        """
        self._update(changed, {"aliases": aliases, "ready": ready})

    def mark_loading(self, version: str) -> None:
        self.update(loading=self._state.loading | {version}, draining=self._state.draining - {version})

    def cancel_loading(self, version: str) -> None:
        """Records that the load of the version failed or was given up."""
        self.update(loading=self._state.loading - {version})

    def mark_resident(self, version: str) -> None:
        """Publishes that the engine holds the version, so that gateways send requests for it."""
        self.update(resident=self._state.resident | {version})

    def mark_draining(self, version: str) -> None:
        """Publishes that the version is being unloaded, so that gateways send no new requests for it."""
        self.update(resident=self._state.resident - {version}, draining=self._state.draining | {version})

    def mark_unloaded(self, version: str) -> None:
        """Records that the engine no longer holds the version's weights."""
        self.update(draining=self._state.draining - {version})

    def pop_lost(self) -> frozenset[str]:
        """Returns the versions that the engine held when it went down, and forgets them.

        If it went down several times since the last call, these are the versions that it held at any of these times.
        """
        lost, self._lost = self._lost, _EMPTY
        return lost

    def start_shutdown(self) -> None:
        """Reports the engine as DOWN from now on, so that gateways use other engines. Requests in flight finish."""
        self._shutting_down = True
        self.update()

    def close(self) -> None:
        """Ends all calls of `watch` and `watch_changes`, and makes `wait_for_other_than` return at once."""
        self._closed = True
        self._notify()

    async def watch(self) -> AsyncIterator[EngineState]:
        """Yields the current state, then the new state after each change, and the same again after each heartbeat.

        Changes in quick succession may be combined. Ends after `close`.
        """
        async for state, _ in self.watch_changes():
            yield state

    async def watch_changes(self) -> AsyncIterator[tuple[EngineState, frozenset[str] | None]]:
        """Yields the state at first, after each change and after each heartbeat, with the names that have changed.

        These are the versions and aliases that have changed since the state before; None if any may have changed, as
        for the first state. Changes in quick succession may be combined. Ends after `close`.
        """
        sequence = 0
        while not self._closed:
            changed, state = self._changed, self._state
            yield state, self._log.since(sequence)
            sequence = state.sequence
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await changed.wait()

    async def wait_for_other_than(self, known: EngineState, timeout_seconds: float) -> None:
        """Waits until the engine's state is another object than `known`, or for `timeout_seconds`.

        Returns at once after `close`.
        """
        changed = self._changed
        if self._state is not known or self._closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
