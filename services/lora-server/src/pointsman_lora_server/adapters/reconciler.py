"""Reads each change of the desired state (adapter versions, aliases, placements) from Redis, publishes it to watchers,
and runs the work that follows from the change.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.process import Schedule, run_periodically

from pointsman_lora_server.adapters.convergence import EngineConvergence
from pointsman_lora_server.adapters.loading import AdapterLoader
from pointsman_lora_server.adapters.placement import PlacementPlanner
from pointsman_lora_server.adapters.placement_decider import PLAN_SECONDS, PlacementDecider
from pointsman_lora_server.adapters.state_machine import VersionStateMachine
from pointsman_lora_server.domain import TRAINING_SECONDS, DesiredState, EngineState, EngineStatus, Phase, is_ready
from pointsman_lora_server.engine_state import EngineStateStore

log = logging.getLogger(__name__)

SYNC_SECONDS = 2.0
"""Seconds between two runs of the periodic work if no state changes."""

REDIS_RETRY_SECONDS = 0.5
CANARY_CHECK_SECONDS = 1.0
REPORT_TTL_SECONDS = 15.0
"""Seconds after which this engine's report in Redis expires. The report is renewed three times in this period."""

_STATE_POLL_SECONDS = 60.0


class DesiredStateSource(Protocol):
    """The methods of the registry in Redis that the reconciler needs; `AdapterRegistry` implements them."""

    async def read(self) -> DesiredState: ...
    async def wait_for_change(self, last_id: str, seconds: float) -> str: ...
    async def report_engine(self, engine: str, state: EngineState, seconds: float) -> None: ...


class Reconciler:
    """Runs the periodic work of the lora-server: loads and unloads adapter versions, advances unfinished versions,
    checks canaries, and reports to Redis which versions the engine holds.

    Each kind of work runs at its own interval, and after each change of the desired state or of the engine's state.
    """

    def __init__(
        self,
        registry: DesiredStateSource,
        loader: AdapterLoader,
        state_machine: VersionStateMachine,
        engine_state: EngineStateStore,
        check_canaries: Callable[[DesiredState], Awaitable[None]],
        *,
        placement: PlacementPlanner,
        decider: PlacementDecider,
    ) -> None:
        """`check_canaries` is a function that rolls failing canaries back. The other arguments are the objects that do
        the remaining work.
        """
        self._registry = registry
        self._loader = loader
        self._state_machine = state_machine
        self._engine_state = engine_state
        self._check_canaries = check_canaries
        self._placement = placement
        self._decider = decider
        self.desired = DesiredState()
        """The desired state as last read from Redis; empty before the first read."""
        self._published = DesiredState()
        self._ready: dict[str, float | None] = {}
        """READY version -> the seconds that its training took, None if unknown (see `EngineState.ready`)."""
        self._read_lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._wake_events: list[asyncio.Event] = []
        self._logged_errors: dict[str, str] = {}
        self._read_at: float | None = None
        """When the last successful read of `desired` began, on the event loop's clock; None before the first."""
        self._convergence = EngineConvergence(loader, state_machine, engine_state, placement)

    async def run(self) -> None:
        """Runs the periodic work until cancelled, then cancels the loads and validations that are in progress.

        Work that fails is retried; a repeated error is logged once.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_redis())
                tasks.create_task(self._follow_engine())
                for name, work, interval in (
                    ("load the engine's adapters", self._converge, SYNC_SECONDS),
                    ("advance versions", self._advance_versions, SYNC_SECONDS),
                    ("check canaries", self._check_all_canaries, CANARY_CHECK_SECONDS),
                    ("report what the engine holds", self._report, REPORT_TTL_SECONDS / 3),
                ):
                    tasks.create_task(self._run_on_change(name, work, interval))
                tasks.create_task(
                    run_periodically(
                        lambda: self._run_and_log("place adapters by demand", self._place_by_demand),
                        Schedule(PLAN_SECONDS),
                        "place adapters by demand",
                    )
                )
        finally:
            await self._state_machine.stop()
            await self._loader.stop()

    @property
    def is_settled(self) -> bool:
        """Returns whether the engine is READY and, since its last start, has loaded the versions that it should hold.

        Versions whose load failed, or for which the engine had no room, count as loaded.
        """
        return self._convergence.is_settled

    @property
    def has_read(self) -> bool:
        """Returns whether the desired state has been read from Redis at least once."""
        return self._read_at is not None

    def has_read_within(self, seconds: float) -> bool:
        """Returns whether the desired state was read from Redis successfully in the last `seconds`."""
        return self._read_at is not None and asyncio.get_running_loop().time() - self._read_at < seconds

    async def refresh(self) -> DesiredState:
        """Reads the desired state from Redis, publishes it to watchers and returns it.

        If Redis has lost all aliases, the earlier state stays published. Reads are serialized, so an older result never
        overwrites a newer one. Raises Unavailable if Redis does not answer, and FailedPrecondition
        ("unreadable_record") if a value in Redis cannot be parsed.
        """
        async with self._read_lock:
            began = asyncio.get_running_loop().time()
            desired = await self._registry.read()
            before, changed = self.desired, desired.changed_since(self.desired)
            if changed or (changed is None and desired != before):
                self.desired = desired
                self._apply(desired, before)
                self.wake()
            self._read_at = began
            return desired

    def wake(self) -> None:
        """Runs all periodic work now instead of at its next interval, and makes calls of `wait_for_change` return."""
        self._changed.set()
        self._changed = asyncio.Event()
        for event in self._wake_events:
            event.set()

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Returns after the next change of the desired state or of the engine's state, or after a call of `wake`, but
        after `timeout_seconds` at the latest.
        """
        changed = asyncio.ensure_future(self._changed.wait())
        engine = asyncio.ensure_future(
            self._engine_state.wait_for_other_than(self._engine_state.state, timeout_seconds)
        )
        try:
            await asyncio.wait({changed, engine}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            engine.cancel()

    async def hand_over(self, timeout_seconds: float) -> None:
        """Makes other engines load the versions that are placed on this engine, which is about to stop; returns when
        they hold them.

        Only versions that are placed by demand or by a number of copies are handed over; other versions are on all
        engines, or are loaded when a request needs them. After `timeout_seconds`, or if Redis fails, the method logs a
        warning and returns.
        """
        self._placement.leaving = True
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._report()
                await self._placement.wait_until_handed_over(lambda: self.desired, self._engine_state.state.resident)
        except (TimeoutError, PointsmanError) as error:
            log.warning("other engines do not yet hold everything that this one held; it stops all the same: %s", error)

    def _apply(self, desired: DesiredState, before: DesiredState) -> None:
        if self._engine_state.state.aliases and not desired.aliases:
            # An alias can be moved but never deleted, so Redis itself has lost its data.
            log.error("Redis has lost all aliases; this engine keeps those that it had")
            return
        changed = desired.changed_since(self._published)
        self._published = desired
        if changed is None:
            self._ready.clear()
        self._index(desired.phases if changed is None else changed, desired)
        self._loader.set_targets(desired.pins & self._ready.keys(), desired.alias_targets)
        self._loader.set_placed(self._placement.placed_here(desired))
        self._engine_state.set_desired(desired.aliases, self._ready, changed)
        self._convergence.unload_not_ready(desired)
        for name in before.phases if changed is None else changed:
            record = before.phases.get(name)
            if record is not None and record.phase is Phase.FAILED and _is_ready_or_in_progress(name, desired):
                self._loader.clear_rejection(name)

    def _index(self, names: Iterable[str], desired: DesiredState) -> None:
        for name in names:
            if is_ready(name, desired):
                self._ready[name] = desired.versions[name].metrics.get(TRAINING_SECONDS)
            else:
                self._ready.pop(name, None)

    async def _follow_redis(self) -> None:
        last_id = ""
        while not self._engine_state.closed:
            try:
                last_id = await self._registry.wait_for_change(last_id, SYNC_SECONDS)
                await self.refresh()
                self._log_once("follow changes in Redis", None)
            except PointsmanError as error:
                self._log_once("follow changes in Redis", error)
                await asyncio.sleep(REDIS_RETRY_SECONDS)
            except Exception:  # data that cannot be read must not stop the engine from serving
                log.exception("cannot use the state that Redis holds")
                await asyncio.sleep(REDIS_RETRY_SECONDS)

    async def _follow_engine(self) -> None:
        while not self._engine_state.closed:
            known = self._engine_state.state
            await self._engine_state.wait_for_other_than(known, _STATE_POLL_SECONDS)
            self.wake()

    async def _run_on_change(self, name: str, work: Callable[[], Awaitable[None]], interval: float) -> None:
        wake = asyncio.Event()
        self._wake_events.append(wake)
        await run_periodically(
            lambda: self._run_and_log(name, work), Schedule(interval, run_at_start=True, wake=wake), name
        )

    async def _run_and_log(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except PointsmanError as error:
            self._log_once(name, error)
        else:
            self._log_once(name, None)

    async def _converge(self) -> None:
        await self._convergence.converge(self.desired, self.has_read)

    async def _advance_versions(self) -> None:
        self._state_machine.advance(self.desired)

    async def _check_all_canaries(self) -> None:
        if any(alias.canary for alias in self.desired.aliases):
            await self._check_canaries(self.desired)

    async def _place_by_demand(self) -> None:
        if self.has_read and not self._placement.leaving:
            await self._decider.run_once(self.desired, self._engine_state.state)

    async def _report(self) -> None:
        """Reports to Redis all versions that the engine holds, loads or unloads. The files of these versions must not
        be deleted yet.

        During `hand_over` and after it, the engine is reported as not READY, so that nothing is placed on it.
        """
        state = self._engine_state.state
        held = state.resident | state.loading | state.draining
        if self._placement.leaving:  # nothing may be placed on this engine any more, whatever it still holds
            state = replace(state, status=EngineStatus.DOWN)
        await self._registry.report_engine(self._placement.engine, replace(state, resident=held), REPORT_TTL_SECONDS)

    def _log_once(self, name: str, error: PointsmanError | None) -> None:
        """Logs an error of the work `name` if its code differs from the last one's; None says that the work
        succeeded.
        """
        code = error.code if error else ""
        if error and self._logged_errors.get(name) != code:
            log.warning("cannot %s: %s; the engine keeps serving what it holds", name, error.message)
        self._logged_errors[name] = code


def _is_ready_or_in_progress(name: str, desired: DesiredState) -> bool:
    record = desired.phases.get(name)
    return record is not None and record.phase not in (Phase.FAILED, Phase.RETIRED)
