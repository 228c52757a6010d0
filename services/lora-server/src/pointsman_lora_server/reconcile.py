"""Makes the engine hold what Redis wants, after every start of either, and publishes where the aliases point."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_lora_server.attempts import RetryBackoff
from pointsman_lora_server.board import EngineStateStore
from pointsman_lora_server.domain import TRAINING_SECONDS, DesiredState, EngineState, EngineStatus, Phase
from pointsman_lora_server.hot_swap import AdapterLoader
from pointsman_lora_server.placing import PlacementPlanner
from pointsman_lora_server.roll_outs import VersionStateMachine

log = logging.getLogger(__name__)

TICK = 2.0
"""Seconds between two looks at everything, though nothing is heard."""

PAUSE = 0.5  # seconds before Redis is asked again after a failure
JUDGING = 1.0  # seconds between two looks at the canaries
BELIEVED = 15.0
"""Seconds for which others take our word for what the engine holds; it is given again after a third of that."""


class DesiredStateSource(Protocol):
    async def read(self) -> DesiredState: ...
    async def changes_since(self, last_id: str, seconds: float) -> str: ...
    async def confirm(self, engine: str, state: EngineState, seconds: float) -> None: ...


class Reconciler:
    def __init__(
        self,
        registry: DesiredStateSource,
        hot_swap: AdapterLoader,
        roll_outs: VersionStateMachine,
        board: EngineStateStore,
        judge: Callable[[DesiredState], Awaitable[None]],
        placing: PlacementPlanner,
    ) -> None:
        """`judge` takes back the canaries that do worse."""
        self._registry = registry
        self._hot_swap = hot_swap
        self._roll_outs = roll_outs
        self._board = board
        self._judge = judge
        self._placing = placing
        self.desired = DesiredState()
        """As it was last read."""
        self._in_order = asyncio.Lock()
        self._news = asyncio.Event()
        self._told: dict[str, str] = {}
        self._attempts = RetryBackoff()
        self._life = 0
        self._settled_life = 0
        self._has_read = False
        self._lost: set[str] = set()  # held by earlier lives of the engine, and not yet by this one

    async def run(self) -> None:
        """Until cancelled, or until the board is closed. What fails is told once, and tried again."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._again_and_again("the engine's adapters", self._converge, TICK))
                tasks.create_task(self._again_and_again("the roll-outs", self._roll_out, TICK))
                tasks.create_task(self._again_and_again("the canaries", self._judge_canaries, JUDGING))
                tasks.create_task(self._again_and_again("what the engine holds", self._confirm, BELIEVED / 3))
        finally:
            await self._roll_outs.stop()
            await self._hot_swap.stop()

    @property
    def settled(self) -> bool:
        """The engine answers, and has what it is to hold from the start: each was loaded, or cannot be."""
        state = self._board.state
        return state.status is EngineStatus.READY and state.life == self._settled_life

    async def refresh(self) -> DesiredState:
        """Reads Redis, and publishes. One at a time: an older answer must not overwrite a newer one."""
        async with self._in_order:
            desired = await self._registry.read()
            if desired != self.desired:
                before, self.desired = self.desired, desired
                self._take_in(desired, before)
                self.wake()
            self._has_read = True
            return desired

    def wake(self) -> None:
        """There is something to be looked at."""
        self._news.set()
        self._news = asyncio.Event()

    async def until_news(self, seconds: float) -> None:
        """Waits for the next change of Redis or of the board."""
        news = asyncio.ensure_future(self._news.wait())
        board = asyncio.ensure_future(self._board.until_other_than(self._board.state, seconds))
        try:
            await asyncio.wait({news, board}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            board.cancel()

    def _take_in(self, desired: DesiredState, before: DesiredState) -> None:
        ready = frozenset(name for name, standing in desired.standings.items() if standing.phase is Phase.READY)
        if self._board.state.aliases and not desired.aliases:
            # An alias can be moved and never be taken away, so it is Redis that has lost its data.
            log.error("Redis has lost all aliases; this engine goes on with those that it had")
            return
        self._hot_swap.want(desired.pins & ready, desired.aimed_at)
        self._hot_swap.place(self._placing.here(desired))
        self._board.publish(desired.aliases, ready, _training_seconds(desired, ready))
        self._drop_what_may_not_be_there(desired)
        for name, standing in before.standings.items():
            if standing.phase is Phase.FAILED and _is_ready_or_on_its_way(name, desired):
                self._hot_swap.forgive(name)

    def _drop_what_may_not_be_there(self, desired: DesiredState) -> None:
        """Not what Redis does not know at all: what was deleted had been retired before."""
        for name in self._board.state.resident:
            standing = desired.standings.get(name)
            if standing is not None and standing.phase is not Phase.READY:
                self._hot_swap.drop(name)

    async def _follow(self) -> None:
        last = ""
        while not self._board.closed:
            try:
                last = await self._registry.changes_since(last, TICK)
                await self.refresh()
                self._tell("redis", None)
            except PointsmanError as error:
                self._tell("redis", error)
                await asyncio.sleep(PAUSE)
            except Exception:  # what one reads wrongly must not end the engine's service
                log.exception("Redis: what it holds cannot be taken in")
                await asyncio.sleep(PAUSE)

    async def _converge(self) -> None:
        """What may not be there goes; then what is wanted comes, and what was there before this life of the engine."""
        state, desired, has_read = self._board.state, self.desired, self._has_read
        if state.status is not EngineStatus.READY:
            return
        if state.life != self._life:
            self._life = state.life
            self._roll_outs.attempts.again()
            self._attempts.again()
            self._lost |= self._board.take_lost()
        self._drop_what_may_not_be_there(desired)
        await self._place(desired)
        await self._hot_swap.sweep()
        await self._load_wanted(desired)
        if has_read:
            self._settled_life = state.life

    async def _load_wanted(self, desired: DesiredState) -> None:
        for name in self._wanted(desired):
            if name in self._board.state.resident:
                self._lost.discard(name)
            elif self._attempts.may_try(name) and not self._hot_swap.refusal(name):
                try:
                    has_come = await self._bring(name, desired)
                    self._attempts.succeeded(name)
                except PointsmanError as error:
                    self._attempts.failed(name, error)
                    continue
                if not has_come and name not in desired.pins:
                    self._lost.clear()
                    return  # nor is there room for those that are needed less

    async def _bring(self, name: str, desired: DesiredState) -> bool:
        """False where there is no room at the expense of what is wanted less; for what somebody waits room is made."""
        version = desired.versions[name]
        if name not in desired.coming:
            return await self._hot_swap.preload(version)
        await self._hot_swap.ensure(version)
        return True

    async def _place(self, desired: DesiredState) -> None:
        """Engines come and go, which moves versions; what others hold in our engine's place is let go."""
        await self._placing.look()
        self._hot_swap.place(self._placing.here(desired))
        for name in self._placing.to_let_go(desired, self._board.state.resident):
            log.info("%s is placed elsewhere, and warm there", name)
            self._hot_swap.drop(name)

    def _wanted(self, desired: DesiredState) -> list[str]:
        """READY versions: pinned, placed here, and what the engine held in its life before; the newest first."""
        here = self._placing.here(desired)

        def order(name: str) -> tuple[bool, bool, int, str]:
            return (
                name not in desired.pins,
                name not in here,
                -desired.versions[name].created_unix_ms,
                name,
            )

        wanted = desired.pins | here | {name for name in self._lost if not self._is_elsewhere(name, desired)}
        ready = [name for name in wanted if name in desired.standings and _is_ready(name, desired)]
        return sorted(ready, key=order)

    def _is_elsewhere(self, name: str, desired: DesiredState) -> bool:
        return name in desired.aimed_at and bool(desired.placement_of(name).copies)

    async def hand_over(self, seconds: float) -> None:
        """Before our engine goes others come to hold what is placed on it: returns then, or after `seconds`."""
        self._placing.leaves = True
        try:
            async with asyncio.timeout(seconds):
                await self._confirm()
                await self._placing.until_others_hold(lambda: self.desired, self._board.state.resident)
        except (TimeoutError, PointsmanError) as error:
            log.warning("not all that this engine holds is warm elsewhere; it goes all the same: %s", error)

    async def _roll_out(self) -> None:
        self._roll_outs.go_on(self.desired)

    async def _judge_canaries(self) -> None:
        if any(alias.canary for alias in self.desired.aliases):
            await self._judge(self.desired)

    async def _confirm(self) -> None:
        """Also what is on its way in or out: its files are needed."""
        state = self._board.state
        held = state.resident | state.loading | state.draining
        if self._placing.leaves:  # whatever it holds still, nothing may be placed on it
            state = replace(state, status=EngineStatus.DOWN)
        await self._registry.confirm(self._placing.engine, replace(state, resident=held), BELIEVED)

    async def _again_and_again(self, what: str, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        """After each change, and every so many seconds."""
        while not self._board.closed:
            news, seen = self._news, self._board.state
            try:
                await step()
                self._tell(what, None)
            except PointsmanError as error:
                self._tell(what, error)
            except Exception:  # one step that fails must not end the engine's service
                log.exception("%s: a step broke off", what)
            if not news.is_set() and self._board.state is seen:
                await self.until_news(seconds)

    def _tell(self, of: str, error: PointsmanError | None) -> None:
        """Once, until it is over or another trouble."""
        code = error.code if error else ""
        if error and self._told.get(of) != code:
            log.warning("%s: %s; the engine goes on with what it holds", of, error.message)
        self._told[of] = code


def _is_ready_or_on_its_way(name: str, desired: DesiredState) -> bool:
    standing = desired.standings.get(name)
    return standing is not None and standing.phase not in (Phase.FAILED, Phase.RETIRED)


def _is_ready(name: str, desired: DesiredState) -> bool:
    return desired.standings[name].phase is Phase.READY


def _training_seconds(desired: DesiredState, ready: frozenset[str]) -> dict[str, float]:
    metrics = {name: desired.versions[name].metrics for name in ready if name in desired.versions}
    return {name: told[TRAINING_SECONDS] for name, told in metrics.items() if TRAINING_SECONDS in told}
