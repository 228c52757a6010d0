"""Makes the engine hold the adapter versions that the desired state in Redis requires, and none that must not serve
requests.
"""

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
"""How long an adapter version that is placed by demand is not loaded again after the engine evicted it for another
version. Otherwise two versions could evict each other again and again. If slots are scarce, the placement plan drops
the evicted copy in this time."""


class EngineConvergence:
    """Loads and unloads adapter versions until the engine holds those that it should; the reconciler calls `converge`
    periodically.
    """

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
        """Version placed here by demand -> when the engine was last seen to hold it, on the clock of
        `time.monotonic`."""
        self._lost: set[str] = set()  # held before a restart of the engine and not loaded again yet

    @property
    def is_settled(self) -> bool:
        """Returns whether the engine is READY and `converge` has run since the engine's last start with a desired state
        that was read from Redis.
        """
        state = self._engine_state.state
        return state.status is EngineStatus.READY and state.life == self._settled_life

    async def converge(self, desired: DesiredState, has_read: bool) -> None:
        """Unloads adapter versions that must not serve, then loads those that this engine should hold, and those that
        it held before it restarted.

        Does nothing unless the engine is READY. `has_read` says whether `desired` was read from Redis; if not, versions
        in the engine that this process does not know stay loaded. A load that fails is recorded, and a later call tries
        it again. Raises Unavailable if the engine does not answer.
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
        """Starts to unload the adapter versions in the engine whose phase in `desired` is not READY, such as retired
        ones.

        Versions that `desired` does not contain stay loaded.
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
        """Loads a version unless the engine holds it, has rejected it, or failed to load it too recently; records a
        failure.

        Returns False if there is no room for the version and it is not pinned; versions of lower priority need not be
        tried then.
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
        """Loads a version; returns False if there is no room for it (see `AdapterLoader.preload`). If an alias is about
        to be moved to the version, it is loaded as for a request (`AdapterLoader.ensure_loaded`), because a caller
        waits for the move.
        """
        version = desired.versions[name]
        if name not in desired.upcoming:
            return await self._loader.preload(version)
        await self._loader.ensure_loaded(version)
        return True

    async def _update_placement(self, desired: DesiredState) -> None:
        """Reads from Redis which versions all engines hold. Unloads versions that are placed only on other engines,
        once those engines hold them.
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
        """Returns the READY versions that this engine should hold, in the order in which they get slots.

        Pinned versions come first, then versions placed here, then versions that the engine held before a restart,
        unless they are placed by a number of copies. Within each group, the newest come first. Versions placed by
        demand that were evicted in the last `EVICTED_SECONDS` are left out.
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
    """Returns whether an alias points to the version and its adapter is placed by demand or by a number of copies. If
    so, the placement alone decides which engines hold the version.
    """
    return name in desired.alias_targets and desired.placement_of(name).is_counted
