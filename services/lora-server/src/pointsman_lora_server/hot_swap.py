"""Brings adapter versions into the running engine; knows which slots are taken, and what went wrong with whom."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, PointsmanError, ResourceExhausted, Unavailable

from pointsman_lora_server.board import Board
from pointsman_lora_server.domain import AdapterVersion, EngineState, EngineStatus

log = logging.getLogger(__name__)

FREE_SLOTS = 1
"""Slots that stay empty. vLLM's CPU kernels (0.32, vllm/lora/punica_wrapper/punica_cpu.py) use "no adapter", -1, as an
index, so that a base-model row batched with adapter rows gets what the last slot holds. An untouched slot holds zeros:
no harm. A slot once used is so until the engine starts anew: unloading takes the name away, not the weights."""


class Engine(Protocol):
    """`VllmApi` says what each raises."""

    async def models(self) -> frozenset[str]: ...
    async def load(self, version: str, folder: Path) -> None: ...
    async def warm(self, version: str) -> None: ...


class Folders(Protocol):
    def folder(self, version: str, sha256: str) -> Path: ...


class LoadMeter(Protocol):
    def loading(self) -> AbstractContextManager[None]: ...


class HotSwap:
    def __init__(
        self,
        engine: Engine,
        folders: Folders,
        board: Board,
        max_loras: int,
        restart_engine: Callable[[str], None],
        meter: LoadMeter,
    ) -> None:
        self._engine = engine
        self._folders = folders
        self._board = board
        self._slots = max_loras - FREE_SLOTS
        self._restart_engine = restart_engine
        self._meter = meter
        self._one_at_a_time = asyncio.Lock()
        self._life = 0
        self._taken: set[str] = set()
        self._held: set[str] = set()  # in any life of the engine
        self._errors: dict[str, str] = {}
        self._loading: str | None = None

    def is_loading(self, version: str) -> bool:
        return self._loading == version

    def last_error(self, version: str) -> str:
        return self._errors.get(version, "")

    def check_slot(self, version: str) -> None:
        """Raises ResourceExhausted where the engine, as it is now, has no slot for `version`."""
        self._notice_new_life(self._board.state)
        if version not in self._taken and len(self._taken) >= self._slots:
            raise ResourceExhausted(
                f"no slot for {version}: the engine holds {', '.join(sorted(self._taken))}, and of its "
                f"{self._slots + FREE_SLOTS} slots (POINTSMAN_LORA_MAX_LORAS) {FREE_SLOTS} stays free, since a full "
                "engine mixes adapters into the base model's answers. Raise the setting, or start the lora-server "
                "again: it leaves out what no alias needs",
                code="no_slot",
            )

    def may_load_unasked(self, version: str) -> bool:
        """Of a version without an alias: it was here before, or a slot for the next roll-out stays without it."""
        self._notice_new_life(self._board.state)
        return version in self._held or len(self._taken) < self._slots - 1

    async def ensure_loaded(self, version: AdapterVersion) -> None:
        """Returns once the engine holds the version and has answered with it.

        Raises Unavailable (no engine now), ResourceExhausted (no slot), NotFound or FailedPrecondition (not whole in
        the store), InvalidArgument (the engine refuses it, or it cannot answer).
        """
        name = version.version
        async with self._one_at_a_time:
            state = self._ready()
            if name in state.resident:
                return
            try:
                self.check_slot(name)
                self._loading = name
                with self._meter.loading():
                    await self._load(version)
                if self._board.state.life != state.life:
                    raise Unavailable(
                        "the engine was started again while it loaded", code="engine_not_ready", retry_after=5
                    )
            except PointsmanError as error:
                self._errors[name] = error.message
                raise
            finally:
                self._loading = None
            self._errors.pop(name, None)
            self._held.add(name)
            self._board.update(resident=self._board.state.resident | {name})
            log.info("%s is resident", name)

    async def _load(self, version: AdapterVersion) -> None:
        name = version.version
        folder = await asyncio.to_thread(self._folders.folder, name, version.sha256)
        self._taken.add(name)  # before the answer: it may get lost, and the slot be taken nevertheless
        if name not in await self._engine.models():
            try:
                await self._engine.load(name, folder)
            except InvalidArgument:
                self._taken.discard(name)
                raise
        try:
            await self._engine.warm(name)
        except InvalidArgument as error:
            # Weights that overflow leave NaN behind, which silences the base model and all adapters until a new start.
            self._restart_engine(error.message)
            raise

    def _ready(self) -> EngineState:
        state = self._board.state
        if state.status is not EngineStatus.READY:
            raise Unavailable(f"the engine is not ready: {state.detail}", code="engine_not_ready", retry_after=5)
        self._notice_new_life(state)
        return state

    def _notice_new_life(self, state: EngineState) -> None:
        if state.life != self._life:
            self._life = state.life
            self._taken.clear()
