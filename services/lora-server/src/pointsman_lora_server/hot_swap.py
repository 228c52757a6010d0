"""Brings adapter versions into the running engine, on demand and one at a time, and takes out what may not be there."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, ResourceExhausted, Unavailable

from pointsman_lora_server.board import EngineStateStore
from pointsman_lora_server.domain import AdapterVersion, EngineState, EngineStatus, Phase
from pointsman_lora_server.loading import LoadSequence
from pointsman_lora_server.slots import AdapterSlots

log = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 30.0
"""Seconds that a load waits for its turn and for a slot."""


class ArtifactFetcher(Protocol):
    def fetch(self, version: AdapterVersion) -> Path: ...


class Standings(Protocol):
    async def stand(
        self, version: str, phase: Phase, *, expected: Phase | None = None, error_code: str = "", error: str = ""
    ) -> bool: ...


class LoadMeter(Protocol):
    def loading(self) -> AbstractContextManager[None]: ...
    def ensured(self, result: str) -> None: ...


class AdapterLoader:
    def __init__(
        self,
        folders: ArtifactFetcher,
        loading: LoadSequence,
        slots: AdapterSlots,
        standings: Standings,
        board: EngineStateStore,
        meter: LoadMeter,
        longest_wait: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._folders = folders
        self._loading = loading
        self._slots = slots
        self._standings = standings
        self._board = board
        self._meter = meter
        self._longest_wait = longest_wait
        self._one_at_a_time = asyncio.Lock()  # first come, first served: nobody is starved
        self._loads: dict[str, asyncio.Task[bool]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, InvalidArgument] = {}
        self._aimed_at: frozenset[str] = frozenset()

    def want(self, pinned: frozenset[str], aimed_at: frozenset[str]) -> None:
        """What never goes, and what does not fail for all because it fails here."""
        self._slots.pinned, self._aimed_at = pinned, aimed_at

    def place(self, placed: frozenset[str]) -> None:
        """What goes last: it is to be held here."""
        self._slots.placed = placed

    def refusal(self, version: str) -> InvalidArgument | None:
        """Why the engine will not have the version."""
        return self._refused.get(version)

    def forgive(self, version: str) -> None:
        """It was registered anew: what the engine said of it before is void."""
        self._refused.pop(version, None)

    async def ensure(self, version: AdapterVersion) -> None:
        """Returns once the engine holds the version and has answered with it; however many ask, it is loaded once.

        Raises Unavailable (no engine now), ResourceExhausted (no slot in time), NotFound or FailedPrecondition (not
        whole in the store), InvalidArgument (the engine refuses it, it cannot answer, or answers with something else).
        """
        name, result = version.version, "resident"
        try:
            while name not in self._ready().resident:
                result = "joined" if name in self._loads else "loaded"
                await asyncio.shield(self._load_once(version, make_room=True))
        except PointsmanError:
            self._meter.ensured("failed")
            raise
        self._slots.promise(name)
        self._meter.ensured(result)

    async def ensure_agreed(self, version: AdapterVersion) -> None:
        """The same, and where PEFT's answers are at hand, they have been compared with: also those of a version that
        was resident before they were."""
        await self.ensure(version)
        try:
            await self._loading.agree(version.version)
        except NotFound:
            return  # evicted again meanwhile: its next load compares
        except InvalidArgument as error:
            await self._refuse(version.version, error)
            raise

    async def preload(self, version: AdapterVersion) -> bool:
        """The same unasked: at the expense of nothing that is wanted; False where there is no room like that."""
        return await asyncio.shield(self._load_once(version, make_room=False))

    def drop(self, version: str) -> None:
        """Has the version drained and unloaded, whatever time its last answers take."""
        if version not in self._drains:
            self._drains[version] = _kept(self._drains, version, self._drain(version))

    async def sweep(self) -> None:
        """Holds the board against the engine's own account: whatever was cut off in its middle is brought to an end."""
        if self._one_at_a_time.locked():
            return
        async with self._one_at_a_time:
            life = self._ready().life
            held = await self._slots.held()
            state = self._board.state
            if state.life != life:
                return
            known = frozenset(name for name, usage in held.items() if usage.open)
            self._board.update(
                resident=state.resident & known,
                draining=frozenset(name for name in state.draining if name in held or name in self._drains),
            )
            for name in held.keys() - self._board.state.resident - self._board.state.loading - self._drains.keys():
                self.drop(name)

    async def stop(self) -> None:
        tasks = [*self._loads.values(), *self._drains.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def _load_once(self, version: AdapterVersion, make_room: bool) -> "asyncio.Task[bool]":
        name, task = version.version, self._loads.get(version.version)
        # One that is done and not off the shelf yet must not be joined: awaiting it gives nobody else a turn, and so
        # not to the callback either that takes it off the shelf.
        if task is None or task.done():
            task = self._loads[name] = _kept(self._loads, name, self._load(version, make_room))
        return task

    async def _load(self, version: AdapterVersion, make_room: bool) -> bool:
        name, until = version.version, time.monotonic() + self._longest_wait
        if name in self._refused:
            raise self._refused[name]
        self._ready()
        folder = await asyncio.to_thread(self._folders.fetch, version)
        try:
            async with self._turn(name, until):
                life = self._ready().life
                if not make_room and not await self._slots.has_room(name):
                    return False
                with self._meter.loading():
                    if make_room:
                        await self._slots.make_room(name, until)
                    await self._bring_in(version, folder)
            await self._loading.agree(name)  # it takes seconds: others have their turn meanwhile
            if self._ready().life != life:
                raise Unavailable(
                    "the engine was started again while it loaded", code="engine_not_ready", retry_after=5
                )
        except BaseException as error:
            self._board.loads_no_more(name)
            if isinstance(error, InvalidArgument):
                await self._refuse(name, error)
            raise
        self._board.holds(name)
        log.info("%s is resident", name)
        return True

    async def _bring_in(self, version: AdapterVersion, folder: Path) -> None:
        name = version.version
        await self._stop_draining(name)
        self._board.loads(name)
        self._slots.taken(name, folder)
        await self._loading.load(version, folder)

    async def _refuse(self, name: str, error: InvalidArgument) -> None:
        """It does not come back in this process's life, nor, where nothing points to it, to any engine.

        One engine alone must not take away from all the others what they serve with.
        """
        self._refused[name] = error
        self.drop(name)
        if name in self._aimed_at:
            log.error("%s, which an alias points to, does not serve here: %s", name, error.message)
            return
        try:
            await self._standings.stand(
                name, Phase.FAILED, expected=Phase.READY, error_code=error.code, error=error.message
            )
        except Unavailable as unavailable:
            log.warning("%s has failed (%s), and it is not noted: %s", name, error.message, unavailable.message)

    async def _drain(self, name: str) -> None:
        try:
            await self._slots.evict(name, why="retired")
        except Unavailable as error:
            log.info("%s was not drained: %s", name, error.message)  # the next life does not hold it

    async def _stop_draining(self, name: str) -> None:
        if task := self._drains.pop(name, None):
            task.cancel()
            await asyncio.wait({task})

    @asynccontextmanager
    async def _turn(self, name: str, until: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self._one_at_a_time.acquire()
        except TimeoutError:
            raise ResourceExhausted(
                f"no turn for {name} within {self._longest_wait:g} s: others are being loaded before it",
                code="no_slot",
                retry_after=1.0,
            ) from None
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def _ready(self) -> EngineState:
        state = self._board.state
        if state.status is not EngineStatus.READY:
            raise Unavailable(f"the engine is not ready: {state.detail}", code="engine_not_ready", retry_after=5)
        return state


def _kept(shelf: "dict[str, asyncio.Task[Any]]", name: str, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """A task that leaves the shelf when it is done, and whose failure is told to whoever waits, if anyone does."""
    task = asyncio.create_task(work, name=name)

    def done(task: "asyncio.Task[Any]") -> None:
        if shelf.get(name) is task:
            del shelf[name]
        if not task.cancelled():
            task.exception()

    task.add_done_callback(done)
    return task
