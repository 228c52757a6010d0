"""Makes the engine hold what Redis wants, after every start of either, and publishes where the aliases point."""

import asyncio
import logging

from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable

from pointsman_lora_server.board import Board
from pointsman_lora_server.domain import DesiredState, EngineStatus
from pointsman_lora_server.hot_swap import HotSwap
from pointsman_lora_server.registry import Registry

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two looks at Redis: another engine's lora-server may have changed it."""


class Reconciler:
    def __init__(self, registry: Registry, hot_swap: HotSwap, board: Board) -> None:
        self._registry = registry
        self._hot_swap = hot_swap
        self._board = board
        self._in_order = asyncio.Lock()
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled. What fails is told once, and tried again.

        Or until the board is closed: the Redis client uses `asyncio.wait_for`, which in Python 3.11 can swallow a
        cancellation.
        """
        while not self._board.closed:
            seen = self._board.state.status
            try:
                desired = await self.refresh()
                self._tell("redis", "")
            except Unavailable as error:
                self._tell("redis", f"{error.message}; the engine goes on with what it holds")
            else:
                if self._board.state.status is EngineStatus.READY:
                    await self._load_wanted(desired)
            if self._board.state.status is seen:
                await self._board.until_changed(INTERVAL)

    async def refresh(self) -> DesiredState:
        """Reads Redis, and publishes the aliases. One at a time: an older answer must not overwrite a newer one."""
        async with self._in_order:
            desired = await self._registry.read()
            self._board.update(aliases=desired.aliases)
            return desired

    async def _load_wanted(self, desired: DesiredState) -> None:
        aliased = {alias.version for alias in desired.aliases}
        for name in desired.wanted:
            if name not in aliased and not self._hot_swap.may_load_unasked(name):
                self._tell(name, "not loaded: no alias points to it, and a slot is kept for the next roll-out")
                continue
            try:
                await self._hot_swap.ensure_loaded(desired.versions[name])
                self._tell(name, "")
            except InvalidArgument as error:
                self._tell(name, error.message)
                await self._reject(name)
            except PointsmanError as error:
                self._tell(name, error.message)

    async def _reject(self, name: str) -> None:
        try:
            await self._registry.reject(name)
        except Unavailable as error:
            self._tell("redis", error.message)

    def _tell(self, of: str, problem: str) -> None:
        if problem and self._told.get(of) != problem:
            log.warning("%s: %s", of, problem)
        self._told[of] = problem
