"""Manages the engine's adapter slots, the places for adapter versions in the engine's host memory: chooses which
version to evict, and evicts it without failing a request. vLLM's scheduler decides which of the held versions are in
the current batch.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from pathlib import Path

from pointsman_servicekit.errors import ResourceExhausted

from pointsman_lora_server.engine.vllm_client import LoadedAdapter, VllmClient
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.metrics import LoraServerMetrics

POLL_SECONDS = 0.05
"""Seconds between two checks of whether a version or a slot has become free."""

MAX_IDLE_WAIT_SECONDS = 1.0
"""How long a load waits, in seconds, for a version without running requests, which can be evicted at once. Then the
version with the fewest requests is closed to new requests, because under a steady load every version may always have
some."""

RESERVATION_SECONDS = 1.0
"""The longest time, in seconds, for which a version is protected from eviction because a caller is about to send a
request for it."""


class AdapterSlots:
    """Makes room for adapter versions in the engine by evicting others; the engine holds at most `capacity` versions.

    Versions in `pinned` are never evicted, and versions in `placed` (assigned to this engine) last. `make_room` and
    `try_make_room` must not run at the same time. Methods that call the engine raise Unavailable if it does not answer.
    """

    def __init__(
        self, engine: VllmClient, engine_state: EngineStateStore, slots: int, metrics: LoraServerMetrics
    ) -> None:
        self._engine = engine
        self._engine_state = engine_state
        self.capacity = slots
        self._metrics = metrics
        self.pinned: frozenset[str] = frozenset()
        self.placed: frozenset[str] = frozenset()
        self._folders: dict[str, Path] = {}
        self._reserved_at: dict[str, float] = {}

    async def list_loaded(self) -> Mapping[str, LoadedAdapter]:
        """Returns version -> `LoadedAdapter` for the adapter versions that the engine reports as loaded."""
        return await self._engine.list_adapters()

    def remember_folder(self, version: str, folder: Path) -> None:
        """Stores the folder of a version that is about to be loaded. `evict` needs the folder to undo an eviction."""
        self._folders[version] = folder

    def reserve(self, version: str) -> None:
        """Protects the version from eviction because a caller is about to send a request for it.

        The protection ends when the request reaches the engine, or after `RESERVATION_SECONDS`.
        """
        now = time.monotonic()
        self._reserved_at = {
            name: since for name, since in self._reserved_at.items() if now - since < RESERVATION_SECONDS
        }
        self._reserved_at[version] = now

    async def make_room(self, version: str, deadline: float) -> None:
        """Returns when the engine holds `version` or has a free slot for it.

        If all slots are taken, evicts a version without running requests. If none is without requests for
        `MAX_IDLE_WAIT_SECONDS`, evicts the least used version, once its last request has ended. Pinned versions, and
        versions that are being loaded, are never evicted. `deadline` is a time of `time.monotonic`. Raises
        ResourceExhausted ("no_slot") when the deadline has passed, or at once if all versions in the engine are pinned.
        """
        started = time.monotonic()
        while True:
            listed_at = time.monotonic()
            loaded = await self._engine.list_adapters()
            if version in loaded or len(loaded) < self.capacity:
                self._metrics.observe_slot_wait(time.monotonic() - started)
                return
            protected = self.pinned | self._engine_state.state.loading
            candidates = {name: adapter for name, adapter in loaded.items() if name not in protected}
            if self.pinned >= loaded.keys() or time.monotonic() >= deadline:
                self._metrics.observe_slot_wait(time.monotonic() - started)
                raise self._no_slot(version, loaded)
            victim = self._idle_victim(candidates, listed_at)
            if victim is None and time.monotonic() - started > MAX_IDLE_WAIT_SECONDS:
                victim = self._least_used(candidates, listed_at)
                if victim is not None:
                    await self._wait_for_reservation(victim)
            if victim is None:
                await asyncio.sleep(POLL_SECONDS)
            else:
                await self.evict(victim, deadline)

    async def try_make_room(self, version: str) -> bool:
        """Returns whether the engine holds `version` or has a free slot for it, without waiting for requests to end.

        If all slots are taken, a version without running requests is evicted, but only if `version` is pinned or placed
        on this engine. A pinned version may replace any version that is not pinned; a placed version, any that is
        neither pinned nor placed.
        """
        listed_at = time.monotonic()
        loaded = await self._engine.list_adapters()
        if version in loaded or len(loaded) < self.capacity:
            return True
        victim, needed_here = None, self.pinned | self.placed
        if version in needed_here:
            protected = self.pinned if version in self.pinned else needed_here
            protected |= self._engine_state.state.loading
            victim = self._idle_victim(
                {name: adapter for name, adapter in loaded.items() if name not in protected}, listed_at
            )
        if victim is None:
            return False
        await self.evict(victim, time.monotonic())
        return len(await self._engine.list_adapters()) < self.capacity

    async def evict(self, version: str, deadline: float = math.inf, reason: str = "room") -> bool:
        """Unloads a version: gateways stop using it, the engine rejects new requests for it, and its weights are
        removed after its last running request.

        Returns True when the weights are removed. Returns False if requests are still running at `deadline` (a time of
        `time.monotonic`). The version is then opened to requests again if its folder is known. If an earlier process
        loaded the version, the folder is not known, and the version stays closed until it is loaded again or
        `AdapterLoader.sync_with_engine` unloads it. `reason` is one of `metrics.EVICTION_REASONS`.
        """
        self._engine_state.mark_draining(version)
        await self._engine.close_adapter(version)
        while not await self._engine.remove(version):
            if time.monotonic() >= deadline:
                if folder := self._folders.get(version):
                    await self._engine.load(version, folder)  # weights are still there; opens the name again
                    self._engine_state.mark_resident(version)
                return False
            await asyncio.sleep(POLL_SECONDS)
        self._engine_state.mark_unloaded(version)
        self._metrics.count_eviction(reason)
        return True

    def _idle_victim(self, loaded: Mapping[str, LoadedAdapter], listed_at: float) -> str | None:
        """Returns the version to evict: one of the versions in `loaded` without running requests; None if there is
        none.

        Preferred is a version that is closed to new requests, then one that is not placed on this engine, then one that
        is not reserved, then the one without a request for the longest time. Returns None if even this version is
        reserved for a coming request, since reservations end soon. `listed_at` is the time of `time.monotonic` at which
        the engine returned `loaded`.
        """

        def priority(name: str) -> tuple[bool, bool, bool, float]:
            adapter = loaded[name]
            return (
                adapter.open,
                name in self.placed,
                self._is_reserved(name, adapter, listed_at),
                -adapter.idle_seconds,
            )

        idle = min((name for name, adapter in loaded.items() if not adapter.in_flight), key=priority, default=None)
        return None if idle is None or self._is_reserved(idle, loaded[idle], listed_at) else idle

    def _least_used(self, loaded: Mapping[str, LoadedAdapter], listed_at: float) -> str | None:
        return min(
            (name for name, adapter in loaded.items() if adapter.open),
            key=lambda name: (
                name in self.placed,
                self._is_reserved(name, loaded[name], listed_at),
                loaded[name].in_flight,
                name,
            ),
            default=None,
        )

    async def _wait_for_reservation(self, version: str) -> None:
        """Makes gateways stop using the version, and waits until its reservation is used or expires.

        If gateways still used the version, a steady load would reserve it again and again.
        """
        self._engine_state.mark_draining(version)
        while True:
            listed_at = time.monotonic()
            adapter = (await self._engine.list_adapters()).get(version)
            if adapter is None or not self._is_reserved(version, adapter, listed_at):
                return
            await asyncio.sleep(POLL_SECONDS)

    def _is_reserved(self, name: str, adapter: LoadedAdapter, listed_at: float) -> bool:
        since = self._reserved_at.get(name)
        if since is None or time.monotonic() - since >= RESERVATION_SECONDS:
            return False
        # Reserved and not requested since. `idle_seconds` dates from `listed_at`: compared with the time now, a
        # reservation would be ignored whenever the engine reports slowly.
        return adapter.open and adapter.idle_seconds >= listed_at - since

    def _no_slot(self, version: str, loaded: Mapping[str, LoadedAdapter]) -> ResourceExhausted:
        holders = ", ".join(
            f"{name} ({'pinned' if name in self.pinned else f'{adapter.in_flight} in flight'})"
            for name, adapter in sorted(loaded.items())
        )
        return ResourceExhausted(
            f"no slot for {version}: all {self.capacity} (POINTSMAN_LORA_HELD) are pinned or in use: {holders}",
            code="no_slot",
            retry_after=1.0,
        )
