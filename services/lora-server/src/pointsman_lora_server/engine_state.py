"""Stores the latest known state of the inference engine for all parts of this process, and notifies watchers of its
changes.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pointsman_lora_server.domain import Alias, ChangeLog, EngineState, EngineStatus

SHUTTING_DOWN = "shutting down: requests in flight are finished"

_EMPTY: frozenset[str] = frozenset()


class EngineStateStore:
    """Stores the engine's state, and notifies watchers of its changes.

    It maintains two invariants: an engine that is not READY holds, loads and drains no versions, and a resident version
    is neither loading nor draining.
    """

    def __init__(self, heartbeat: float = 5.0) -> None:
        """`heartbeat` is the number of seconds after which watchers receive an unchanged state again. The API promises
        at most 10.
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
        """Sets the given fields of the `EngineState`, then restores the invariants that the class describes.

        Watchers are not notified if nothing changes. After `start_shutdown`, the status stays DOWN.
        """
        self._update(_EMPTY, changes)

    def _update(self, changed_names: frozenset[str] | None, changes: Mapping[str, Any]) -> None:
        """Implements `update`. `changed_names` are the aliases and READY versions that have changed; None if any may
        have changed.
        """
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
        """Publishes to which versions the aliases point, and which versions any engine may load.

        `ready` maps the loadable versions to the seconds that their training took, None if unknown. `changed` has the
        names of the aliases and versions that have changed since the last call; None if any may have changed.
        """
        self._update(changed, {"aliases": aliases, "ready": ready})

    def mark_loading(self, version: str) -> None:
        self.update(loading=self._state.loading | {version}, draining=self._state.draining - {version})

    def cancel_loading(self, version: str) -> None:
        """Records that loading the version has failed or was cancelled."""
        self.update(loading=self._state.loading - {version})

    def mark_resident(self, version: str) -> None:
        """Publishes that the engine holds the version, so that gateways send requests to it."""
        self.update(resident=self._state.resident | {version})

    def mark_draining(self, version: str) -> None:
        """Publishes that the version is being unloaded, so that gateways send it no new requests."""
        self.update(resident=self._state.resident - {version}, draining=self._state.draining | {version})

    def mark_unloaded(self, version: str) -> None:
        """Records that the engine no longer holds the version's weights."""
        self.update(draining=self._state.draining - {version})

    def pop_lost(self) -> frozenset[str]:
        """Returns the versions that the engine held when it went down, and forgets them.

        If the engine went down several times since the last call, the result has all versions that it held at any of
        these times.
        """
        lost, self._lost = self._lost, _EMPTY
        return lost

    def start_shutdown(self) -> None:
        """Reports the engine as DOWN from now on, so that gateways use other engines. Requests in flight still
        finish.
        """
        self._shutting_down = True
        self.update()

    def close(self) -> None:
        """Ends all calls of `watch` and `watch_changes`, and makes `wait_for_other_than` return at once."""
        self._closed = True
        self._notify()

    async def watch(self) -> AsyncIterator[EngineState]:
        """Yields the current state, then the new state after each change, and the unchanged state after each heartbeat
        without a change.

        Changes in quick succession may be combined. Ends after `close`.
        """
        async for state, _ in self.watch_changes():
            yield state

    async def watch_changes(self) -> AsyncIterator[tuple[EngineState, frozenset[str] | None]]:
        """Yields (state, changed names) at first, after each change, and after each heartbeat without a change.

        The names are those of the versions and aliases that have changed since the last yielded state; None if any may
        have changed, as for the first state. Changes in quick succession may be combined. Ends after `close`.
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
        """Waits until the engine's state is no longer the object `known`, but for `timeout_seconds` at most.

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
