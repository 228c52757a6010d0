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
"""How long a load may wait for earlier loads and for a free slot in the engine, in seconds since it was requested."""


class ArtifactFetcher(Protocol):
    """Interface of a store that copies a version's files to the local disk and returns their folder; `ArtifactStore`
    implements it.
    """

    def fetch(self, version: AdapterVersion) -> Path: ...


class PhaseStore(Protocol):
    """Interface for recording the phase of a version, such as FAILED; `AdapterRegistry` implements it with Redis."""

    async def set_phase(
        self, version: str, phase: Phase, *, expected: Phase | None = None, error_code: str = "", error: str = ""
    ) -> bool: ...


class AdapterLoader:
    """Loads adapter versions into the engine; concurrent requests for one version share one load (single-flight).

    Only one load at a time makes room in the engine and reads weights. Then a version that has not answered since the
    engine's last start goes through a trial (see `Trials`), together with other versions that wait for a trial.
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
        """Sets the versions that the engine never evicts (`pinned`), and the versions to which aliases or canaries
        point.

        If this engine rejects a version in `alias_targets`, the version is not marked as FAILED, because other engines
        may serve it.
        """
        self._slots.pinned, self._alias_targets = pinned, alias_targets

    def set_placed(self, placed: frozenset[str]) -> None:
        """Sets the versions that are assigned to this engine; the engine evicts all other versions that are not pinned
        first.
        """
        self._slots.placed = placed

    @property
    def capacity(self) -> int:
        """Returns the largest number of adapter versions that the engine can hold."""
        return self._slots.capacity

    def rejection(self, version: str) -> InvalidArgument | None:
        """Returns the error because of which this engine has rejected the version; None if it has not."""
        return self._rejected.get(version)

    def clear_rejection(self, version: str) -> None:
        """Allows this engine to load a version again that it has rejected. Call it when the version was registered
        again.
        """
        self._rejected.pop(version, None)

    async def ensure_loaded(self, version: AdapterVersion) -> None:
        """Loads the version if needed; returns when the engine holds it and has generated an answer with it. The
        version is then protected from eviction for a short time, so that the caller can send its request
        (`AdapterSlots.reserve`).

        Raises InvalidArgument if the engine rejects or has rejected the version, the version cannot answer, or its
        answers differ from the reference; NotFound if the store lacks its files; FailedPrecondition if the files are
        damaged or the engine cannot see their folder; ResourceExhausted if no slot is free in time or the store's disk
        is full; and Unavailable if the engine or the store is not ready or the engine is restarted meanwhile.
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
        """Loads the version if needed, and compares its answers with its reference answers unless this was done
        already.

        If the version is evicted before the comparison, its next load makes the comparison. Raises the errors of
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
        """Loads a version without a request for it, if the engine has a free slot or can evict an unused version.

        Returns True when the engine holds the version, and False if there is no slot. Raises the errors of
        `ensure_loaded`.
        """
        return await asyncio.shield(self._load_once(version, make_room=False))

    def unload(self, version: str) -> None:
        """Starts to unload the version in the background. Gateways send it no new requests from now on; its weights are
        removed when its last running request has ended, without a time limit.
        """
        if version not in self._drains:
            self._drains[version] = _start_task(self._drains, version, self._drain(version))

    async def sync_with_engine(self, needed: Collection[str] = ()) -> None:
        """Asks the engine which versions it holds, and corrects the published state of the engine.

        A version that the engine no longer holds, or that accepts no new requests, is no longer published as resident.
        Versions in the engine that this process does not know are unloaded, except those in `needed`.

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

        Raises the errors of `Trials.run`, and ResourceExhausted ("no_slot") if earlier trials last beyond `deadline`, a
        time of `time.monotonic`.
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
        """Raises Unavailable if the engine is not READY, or was restarted after its start number `life` and so no
        longer holds the version.
        """
        if self._ready_state().life != life:
            raise Unavailable("the engine was restarted during the load", code="engine_not_ready", retry_after=5)

    async def _reject(self, name: str, error: InvalidArgument) -> None:
        """Unloads a version that the engine rejected, and rejects its loads in this process from now on. The version is
        marked FAILED for all engines only if no alias points to it. So one bad engine cannot stop the other engines
        from serving it.
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
    """Starts a task that removes itself from `tasks` when it has ended. Its errors are raised only where it is
    awaited.
    """
    task = asyncio.create_task(work, name=name)

    def remove(task: "asyncio.Task[Any]") -> None:
        if tasks.get(name) is task:
            del tasks[name]
        if not task.cancelled():
            task.exception()  # marks the error as retrieved

    task.add_done_callback(remove)
    return task
