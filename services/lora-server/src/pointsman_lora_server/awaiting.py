"""Waits for what the reconcilers of all lora-servers do by themselves, and tells what keeps it from happening."""

import time
from collections.abc import Awaitable, Callable

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, Unavailable

from pointsman_lora_server.attempts import RetryBackoff
from pointsman_lora_server.board import EngineStateStore
from pointsman_lora_server.domain import EngineStatus, Phase
from pointsman_lora_server.reconcile import Reconciler

LOOK = 0.25  # seconds between two looks, though nothing is heard
PATIENCE_WITH_REDIS = 3.0  # seconds: on a busy machine it can miss its deadline and be back at once
LAST_WORD = 1.0  # seconds that an engine is down before its version hears of that alone: perhaps it is what did it
LETTING_GO = 5.0  # seconds that a deletion waits for the engines that still hold the version


class VersionWaiter:
    def __init__(self, reconciler: Reconciler, attempts: RetryBackoff, board: EngineStateStore) -> None:
        self._reconciler = reconciler
        self._attempts = attempts
        self._board = board

    async def until_ready(self, version: str) -> None:
        """Until it has been tried out. Raises what went wrong."""
        silent_since = up_at = time.monotonic()
        while True:
            standing = self._reconciler.desired.standings.get(version)
            if standing is None and time.monotonic() - silent_since < PATIENCE_WITH_REDIS:
                await self._wait_on(version)  # it was recorded a moment ago
                continue
            if standing is None or standing.phase is Phase.RETIRED:
                raise FailedPrecondition(f"{version} was retired meanwhile", code="not_ready")
            if standing.phase is Phase.FAILED:
                raise InvalidArgument(standing.error, code=standing.error_code, param="folder")
            if self._board.state.status is EngineStatus.READY:
                up_at = time.monotonic()
            elif standing.phase is Phase.READY or time.monotonic() - up_at > LAST_WORD:
                raise self._not_ready(version)
            if standing.phase is Phase.READY:
                return
            await self._wait_on(version)

    async def until_moved(self, alias: str, version: str) -> None:
        while True:
            desired = self._reconciler.desired
            standing = desired.standings.get(version)
            if any(each.alias == alias and each.version == version for each in desired.aliases):
                return
            if standing is None or not standing.word:
                return  # it has been there, and someone has moved it since
            if standing.phase is Phase.FAILED:
                raise InvalidArgument(standing.error, code=standing.error_code, param="folder")
            if self._board.state.status is not EngineStatus.READY:
                raise self._not_ready(version)
            await self._wait_on(version)

    async def _wait_on(self, version: str) -> None:
        problem = self._attempts.problem(version, PATIENCE_WITH_REDIS)
        if problem is not None:
            raise problem
        await self._reconciler.until_news(LOOK)

    def _not_ready(self, version: str) -> Unavailable:
        why = self._board.state.detail
        return Unavailable(
            f"{version} is registered; the engine is not ready now ({why}): the rest is done when it is",
            code="engine_not_ready",
            retry_after=5,
        )

    async def until_let_go(self, version: str, holders_of: Callable[[str], Awaitable[list[str]]]) -> None:
        """Until no engine holds it. Raises FailedPrecondition ("in_use")."""
        deadline = time.monotonic() + LETTING_GO
        while holders := await holders_of(version):
            if time.monotonic() > deadline:
                raise FailedPrecondition(
                    f"{version} is still held by {', '.join(sorted(holders))}: its answers in flight end first",
                    code="in_use",
                    param="version",
                )
            await self._reconciler.until_news(LOOK)
