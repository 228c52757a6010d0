"""Makes the engine hold the adapter versions that the desired state asks for, and no version that must not serve."""

import asyncio
import logging
import time

from pointsman_servicekit.errors import PointsmanError

from pointsman_lora_server.adapters.loading import AdapterLoader
from pointsman_lora_server.adapters.placement import PlacementPlanner
from pointsman_lora_server.adapters.state_machine import RetryBackoff, VersionStateMachine
from pointsman_lora_server.adapters.trials import MAX_GROUP
from pointsman_lora_server.domain import DesiredState, EngineStatus, Phase, is_ready
from pointsman_lora_server.engine_state import EngineStateStore

log = logging.getLogger(__name__)

EVICTED_SECONDS = 60.0
"""How long a version placed by demand is not loaded again after it was evicted for another one. If slots are scarce,
the plan gives the copy up meanwhile; otherwise two versions would evict each other again and again."""


class EngineConvergence:
    """Loads and unloads versions until the engine holds those that it should; `converge` is called again and again."""

    def __init__(
        self,
        loader: AdapterLoader,
        state_machine: VersionStateMachine,
        engine_state: EngineStateStore,
        placement: PlacementPlanner,
    ) -> None:
        self._loader = loader
        self._state_machine = state_machine
        self._engine_state = engine_state
        self._placement = placement
        self._retries = RetryBackoff()
        self._life = 0
        self._settled_life = 0
        self._held_at: dict[str, float] = {}
        """By version placed here by demand, when the engine was last seen to hold it (`time.monotonic`)."""
        self._lost: set[str] = set()  # held before a restart of the engine and not loaded again yet

    @property
    def is_settled(self) -> bool:
        """Returns whether the engine is READY and, since its last start, `converge` has run with a state that was read
        from Redis.
        """
        state = self._engine_state.state
        return state.status is EngineStatus.READY and state.life == self._settled_life

    async def converge(self, desired: DesiredState, has_read: bool) -> None:
        """Unloads versions that must not serve, then loads those that are needed, or that the engine held before it
        restarted.

        Does nothing unless the engine is READY. `has_read` says whether `desired` was read from Redis; if not, versions
        that this process does not know stay in the engine. A load that fails is recorded, and tried again by a later
        call. Raises Unavailable if the engine does not answer.
        """
        state = self._engine_state.state
        if state.status is not EngineStatus.READY:
            return
        if state.life != self._life:
            self._life = state.life
            self._state_machine.retries.reset()
            self._retries.reset()
            self._held_at.clear()
            self._lost |= self._engine_state.pop_lost()
        self.unload_not_ready(desired)
        await self._update_placement(desired)
        if has_read:
            await self._loader.sync_with_engine(self._needed(desired))
        await self._load_needed(desired)
        if has_read:
            self._settled_life = state.life

    def unload_not_ready(self, desired: DesiredState) -> None:
        """Starts to unload the versions in the engine whose phase is not READY.

        Versions that `desired` does not contain stay.
        """
        for name in self._engine_state.state.resident:
            record = desired.phases.get(name)
            if record is not None and record.phase is not Phase.READY:
                self._loader.unload(name)

    async def _load_needed(self, desired: DesiredState) -> None:
        needed = self._needed(desired)
        # As many at once as share a trial; one by one if not all fit, so that the highest priorities get the room.
        at_once = MAX_GROUP if len(needed) <= self._loader.capacity else 1
        for first in range(0, len(needed), at_once):
            group = needed[first : first + at_once]
            results = await asyncio.gather(*(self._load_one(name, desired) for name in group))
            if not all(results):
                self._lost.clear()
                return  # there is no room for versions of lower priority either

    async def _load_one(self, name: str, desired: DesiredState) -> bool:
        """Loads a version unless it is resident, rejected, or failed too recently; records a failure.

        Returns False if there is no room for it and it is not pinned: versions of lower priority need not be tried.
        """
        if name in self._engine_state.state.resident:
            self._lost.discard(name)
            return True
        if not self._retries.is_due(name) or self._loader.rejection(name):
            return True
        try:
            loaded = await self._load(name, desired)
            self._retries.record_success(name)
        except PointsmanError as error:
            self._retries.record_failure(name, error)
            return True
        return loaded or name in desired.pins

    async def _load(self, name: str, desired: DesiredState) -> bool:
        """Loads a version; returns False if there is no room for it (see `AdapterLoader.preload`). A version that an
        alias is about to be moved to is loaded as for a request (`AdapterLoader.ensure_loaded`), because a caller waits
        for it.
        """
        version = desired.versions[name]
        if name not in desired.upcoming:
            return await self._loader.preload(version)
        await self._loader.ensure_loaded(version)
        return True

    async def _update_placement(self, desired: DesiredState) -> None:
        """Reads from Redis what all engines hold, and unloads versions that are placed on other engines, which hold
        them.
        """
        await self._placement.refresh()
        here = self._placement.placed_here(desired)
        self._loader.set_placed(here)
        now, resident = time.monotonic(), self._engine_state.state.resident
        held = {name: now if name in resident else at for name, at in self._held_at.items() if name in here}
        by_demand = (name for name in here & resident if desired.placement_of(name).by_demand)
        self._held_at = held | dict.fromkeys(by_demand, now)
        for name in self._placement.releasable(desired, self._engine_state.state.resident):
            log.info("%s is placed on other engines, which hold it", name)
            self._loader.unload(name)

    def _needed(self, desired: DesiredState) -> list[str]:
        """Returns the READY versions that this engine should hold, in the order in which they get the room.

        First come the pinned ones, then those placed here, then those held before a restart unless they are placed by a
        number of copies; the newest first among each of these. Those placed by demand that were evicted in the last
        `EVICTED_SECONDS` are left out.
        """
        resident, long_ago = self._engine_state.state.resident, time.monotonic() - EVICTED_SECONDS
        evicted = {name for name, at in self._held_at.items() if name not in resident and at > long_ago}
        here = self._placement.placed_here(desired) - evicted

        def priority(name: str) -> tuple[bool, bool, int, str]:
            return (
                name not in desired.pins,
                name not in here,
                -desired.versions[name].created_unix_ms,
                name,
            )

        needed = desired.pins | here | {name for name in self._lost if not _is_placed_by_count(name, desired)}
        return sorted((name for name in needed if is_ready(name, desired)), key=priority)


def _is_placed_by_count(name: str, desired: DesiredState) -> bool:
    """Returns whether an alias points to the version and it is placed by demand or by a number of copies. Then the
    placement alone decides which engines hold it.
    """
    return name in desired.alias_targets and desired.placement_of(name).is_counted
