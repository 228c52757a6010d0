"""Loads adapter versions into the running engine, and unloads them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Set
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, ResourceExhausted, Unavailable

from pointsman_lora_server.adapters.load_sequence import LoadSequence
from pointsman_lora_server.adapters.slots import AdapterSlots
from pointsman_lora_server.domain import AdapterVersion, EngineState, EngineStatus, Phase
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.metrics import LoraServerMetrics

log = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 30.0
"""How long a load may wait, from its start, for other loads before it and for a free slot in the engine."""


class ArtifactFetcher(Protocol):
    """Interface for getting the folder of a stored version; `ArtifactStore` implements it."""

    def fetch(self, version: AdapterVersion) -> Path: ...


class PhaseStore(Protocol):
    """Interface for recording the phase of a version; `AdapterRegistry` implements it."""

    async def set_phase(
        self, version: str, phase: Phase, *, expected: Phase | None = None, error_code: str = "", error: str = ""
    ) -> bool: ...


class AdapterLoader:
    """Loads versions; concurrent requests for one version share one load (single-flight).

    Loads of different versions take turns at making room and reading weights. After that, a version that has not
    answered since the engine's last start is tried out (see `Trials`), together with others that wait for the same.
    """

    def __init__(
        self,
        store: ArtifactFetcher,
        sequence: LoadSequence,
        *,
        slots: AdapterSlots,
        phases: PhaseStore,
        engine_state: EngineStateStore,
        metrics: LoraServerMetrics,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._store = store
        self._sequence = sequence
        self._slots = slots
        self._phases = phases
        self._engine_state = engine_state
        self._metrics = metrics
        self._max_wait_seconds = max_wait_seconds
        self._lock = asyncio.Lock()  # first come, first served, so no load starves
        self._loads: dict[str, asyncio.Task[bool]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._rejected: dict[str, InvalidArgument] = {}
        self._alias_targets: Set[str] = frozenset()

    def set_targets(self, pinned: frozenset[str], alias_targets: Set[str]) -> None:
        """Sets the versions that are never evicted (`pinned`), and those to which aliases or canaries point.

        If this engine rejects one of the `alias_targets`, it is not marked as FAILED, because other engines may serve
        it.
        """
        self._slots.pinned, self._alias_targets = pinned, alias_targets

    def set_placed(self, placed: frozenset[str]) -> None:
        """Sets the versions that this engine should hold; they are evicted last."""
        self._slots.placed = placed

    @property
    def capacity(self) -> int:
        """Returns how many versions the engine can hold at most."""
        return self._slots.capacity

    def rejection(self, version: str) -> InvalidArgument | None:
        """Returns the error with which this engine has rejected the version; None if it has not rejected it."""
        return self._rejected.get(version)

    def clear_rejection(self, version: str) -> None:
        """Allows loads of a version that this engine has rejected; to be called when it was registered again."""
        self._rejected.pop(version, None)

    async def ensure_loaded(self, version: AdapterVersion) -> None:
        """Returns when the engine holds the version and has generated an answer with it. For a short time the version
        is then not evicted, so that the caller can send its request (`AdapterSlots.reserve`).

        Raises InvalidArgument if the engine rejects or has rejected the version, the version cannot answer, or its
        answers differ from the reference; NotFound if the store lacks it; FailedPrecondition if it is damaged there or
        the engine does not see its folder; ResourceExhausted if no slot is free in time or the store's disk is full;
        and Unavailable if the engine or the store is not ready or the engine is restarted meanwhile.
        """
        name, result = version.version, "resident"
        try:
            while name not in self._ready_state().resident:
                result = "joined" if name in self._loads else "loaded"
                await asyncio.shield(self._load_once(version, make_room=True))
        except PointsmanError:
            self._metrics.count_load_request("failed")
            raise
        self._slots.reserve(name)
        self._metrics.count_load_request(result)

    async def ensure_verified(self, version: AdapterVersion) -> None:
        """Loads the version if needed, and compares its answers with its reference if that has not been done yet.

        If the version is evicted before that, the comparison is made at its next load. Raises the errors of
        `ensure_loaded`.
        """
        await self.ensure_loaded(version)
        try:
            await self._sequence.verify(version.version)
        except NotFound:
            return  # it was evicted meanwhile; its next load compares
        except InvalidArgument as error:
            await self._reject(version.version, error)
            raise

    async def preload(self, version: AdapterVersion) -> bool:
        """Loads a version that nobody has requested, if the engine has a slot for it or can evict an unused version.

        Returns True when the engine holds it, False if there is no slot. Raises the errors of `ensure_loaded`.
        """
        return await asyncio.shield(self._load_once(version, make_room=False))

    def unload(self, version: str) -> None:
        """Starts to unload the version in the background: gateways stop using it at once, and its weights are removed
        when its last answer has ended, however long that takes.
        """
        if version not in self._drains:
            self._drains[version] = _start_task(self._drains, version, self._drain(version))

    async def sync_with_engine(self, needed: Collection[str] = ()) -> None:
        """Asks the engine which versions it holds, and corrects what is published about it.

        Versions that it no longer holds, or no longer offers to new requests, are no longer published as resident.
        Versions that this process does not know are unloaded, except those in `needed`.

        Does nothing while a load makes room or reads weights, or if the engine is restarted meanwhile. Raises
        Unavailable if the engine is not READY or does not answer.
        """
        if self._lock.locked():
            return
        async with self._lock:
            life = self._ready_state().life
            loaded = await self._slots.list_loaded()
            self._metrics.set_in_use(sum(adapter.in_flight > 0 for adapter in loaded.values()))
            state = self._engine_state.state
            if state.life != life:
                return
            open_versions = frozenset(name for name, adapter in loaded.items() if adapter.open)
            self._engine_state.update(
                resident=state.resident & open_versions,
                draining=frozenset(name for name in state.draining if name in loaded or name in self._drains),
            )
            known = {*self._engine_state.state.resident, *self._engine_state.state.loading, *self._drains, *needed}
            for name in loaded.keys() - known:
                self.unload(name)

    async def stop(self) -> None:
        tasks = [*self._loads.values(), *self._drains.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def _load_once(self, version: AdapterVersion, make_room: bool) -> "asyncio.Task[bool]":
        name, task = version.version, self._loads.get(version.version)
        # A finished task that is still in `_loads` must not be joined: awaiting it does not yield to the event loop, so
        # the callback that removes it would never run.
        if task is None or task.done():
            task = self._loads[name] = _start_task(self._loads, name, self._load(version, make_room))
        return task

    async def _load(self, version: AdapterVersion, make_room: bool) -> bool:
        name, deadline = version.version, time.monotonic() + self._max_wait_seconds
        if name in self._rejected:
            raise self._rejected[name].copy()
        self._ready_state()
        with self._metrics.time_load_step("fetch"):
            folder = await asyncio.to_thread(self._store.fetch, version)
        try:
            with ExitStack() as timing:
                async with self._turn(self._lock, name, deadline):
                    life = self._ready_state().life
                    if not make_room and not await self._slots.try_make_room(name):
                        return False
                    timing.enter_context(self._metrics.time_load())
                    if make_room:
                        await self._slots.make_room(name, deadline)
                    await self._read(name, folder)
                await self._try_out(version, life, deadline)
            await self._sequence.verify(name)
            self._check_life(life)
        except BaseException as error:
            self._engine_state.cancel_loading(name)
            if isinstance(error, InvalidArgument):
                await self._reject(name, error)
            raise
        self._engine_state.mark_resident(name)
        log.info("%s is resident", name)
        return True

    async def _read(self, name: str, folder: Path) -> None:
        await self._cancel_drain(name)
        self._engine_state.mark_loading(name)
        self._slots.remember_folder(name, folder)
        await self._sequence.load(name, folder)

    async def _try_out(self, version: AdapterVersion, life: int, deadline: float) -> None:
        """Runs the version's trial, unless it has passed one since the engine's start number `life`.

        Raises as `Trials.run` does, and ResourceExhausted ("no_slot") if its turn has not come at `deadline`, on the
        clock of `time.monotonic`.
        """
        trials = self._sequence.trials
        if not trials.is_needed(version.version, life):
            return
        trial = trials.enqueue(version, life)
        try:
            async with self._turn(trials.turn, version.version, deadline):
                self._check_life(life)  # the trial before may have made the lora-server restart the engine
                await trials.run(trial)
        finally:
            trials.withdraw(trial)

    def _check_life(self, life: int) -> None:
        """Raises Unavailable if the engine is not READY, or was restarted since its start number `life` and so does not
        hold the version any more.
        """
        if self._ready_state().life != life:
            raise Unavailable("the engine was restarted during the load", code="engine_not_ready", retry_after=5)

    async def _reject(self, name: str, error: InvalidArgument) -> None:
        """Unloads a version that the engine rejected, and refuses its loads in this process from now on. It is marked
        FAILED for all engines only if no alias points to it, so one bad engine cannot take a serving adapter away from
        the others.
        """
        self._rejected[name] = error
        self.unload(name)
        if name in self._alias_targets:
            log.error("%s, which an alias points to, does not serve here: %s", name, error.message)
            return
        try:
            await self._phases.set_phase(
                name, Phase.FAILED, expected=Phase.READY, error_code=error.code, error=error.message
            )
        except Unavailable as unavailable:
            log.warning("%s has failed (%s), which cannot be recorded: %s", name, error.message, unavailable.message)

    async def _drain(self, name: str) -> None:
        try:
            await self._slots.evict(name, reason="retired")
        except Unavailable as error:
            log.info("%s was not drained: %s", name, error.message)  # after a restart the engine does not hold it

    async def _cancel_drain(self, name: str) -> None:
        if task := self._drains.pop(name, None):
            task.cancel()
            await asyncio.wait({task})

    @asynccontextmanager
    async def _turn(self, lock: asyncio.Lock, name: str, deadline: float) -> AsyncIterator[None]:
        try:
            with self._metrics.time_load_step("turn"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await lock.acquire()
        except TimeoutError:
            raise ResourceExhausted(
                f"{name} was not loaded within {self._max_wait_seconds:g} s: other versions are loaded before it",
                code="no_slot",
                retry_after=1.0,
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _ready_state(self) -> EngineState:
        """Returns the engine's state; raises Unavailable unless it is READY."""
        state = self._engine_state.state
        if state.status is not EngineStatus.READY:
            raise Unavailable(f"the engine is not ready: {state.detail}", code="engine_not_ready", retry_after=5)
        return state


def _start_task(
    tasks: "dict[str, asyncio.Task[Any]]", name: str, work: Coroutine[Any, Any, Any]
) -> "asyncio.Task[Any]":
    """Starts a task that removes itself from `tasks` when done; its errors reach only those who await it."""
    task = asyncio.create_task(work, name=name)

    def remove(task: "asyncio.Task[Any]") -> None:
        if tasks.get(name) is task:
            del tasks[name]
        if not task.cancelled():
            task.exception()  # marks the error as retrieved

    task.add_done_callback(remove)
    return task
