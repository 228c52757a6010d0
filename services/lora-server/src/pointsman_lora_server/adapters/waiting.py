"""Waits until the lora-servers have finished their background work on an adapter version, and raises the error that
prevents it.
"""

import time
from collections.abc import Awaitable, Callable

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, Unavailable

from pointsman_lora_server.adapters.reconciler import Reconciler
from pointsman_lora_server.adapters.state_machine import RetryBackoff
from pointsman_lora_server.domain import EngineStatus, Phase
from pointsman_lora_server.engine_state import EngineStateStore

POLL_SECONDS = 0.25
"""Seconds between two checks of the version if no change is reported."""
REDIS_TOLERANCE_SECONDS = 3.0
"""An outage of Redis is only reported to the caller after this many seconds, because a single call can exceed its time
limit by chance on a busy machine."""
ENGINE_DOWN_SECONDS = 1.0
"""The caller only gets an error about the engine after the engine was down for this many seconds. If a version crashes
the engine, it is marked as FAILED within this time, and its error tells the caller more."""
RELEASE_SECONDS = 5.0
"""How long the deletion of a version waits, in seconds, for engines that still hold the version."""


class VersionWaiter:
    """Waits for changes of an adapter version on behalf of a gRPC call."""

    def __init__(self, reconciler: Reconciler, retries: RetryBackoff, engine_state: EngineStateStore) -> None:
        self._reconciler = reconciler
        self._retries = retries
        self._engine_state = engine_state

    async def wait_until_ready(self, version: str) -> None:
        """Returns when both the adapter version and the engine are READY.

        Raises FailedPrecondition ("not_ready") if the version was retired, or is still not registered after
        `REDIS_TOLERANCE_SECONDS`, and InvalidArgument if it FAILED. Raises Unavailable ("engine_not_ready") if the
        engine is not READY when the version is, or was not READY for `ENGINE_DOWN_SECONDS`. If the last attempt on the
        version failed and will be retried, raises its error.
        """
        start = engine_up_at = time.monotonic()
        while True:
            record = self._reconciler.desired.phases.get(version)
            if record is None and time.monotonic() - start < REDIS_TOLERANCE_SECONDS:
                await self._wait_for_change(version)  # it was recorded a moment ago and has not been read back yet
                continue
            if record is None or record.phase is Phase.RETIRED:
                raise FailedPrecondition(f"{version} was retired or deleted meanwhile", code="not_ready")
            if record.phase is Phase.FAILED:
                raise InvalidArgument(record.error, code=record.error_code, param="folder")
            if self._engine_state.state.status is EngineStatus.READY:
                engine_up_at = time.monotonic()
            elif record.phase is Phase.READY or time.monotonic() - engine_up_at > ENGINE_DOWN_SECONDS:
                raise self._engine_not_ready(version)
            if record.phase is Phase.READY:
                return
            await self._wait_for_change(version)

    async def wait_until_alias_moved(self, alias: str, version: str) -> None:
        """Returns when `alias` points to `version`, or when the request to move it there no longer exists.

        The request is deleted, for example, if the alias is protected and the version did not score better than
        prompting. Raises InvalidArgument if the version is in the phase FAILED, and Unavailable ("engine_not_ready") if
        the engine is not READY. If the last attempt to load or check the version failed and will be retried, raises its
        error.
        """
        while True:
            desired = self._reconciler.desired
            record = desired.phases.get(version)
            if any(each.alias == alias and each.version == version for each in desired.aliases):
                return
            if record is None or not record.alias_suffix:
                return
            if record.phase is Phase.FAILED:
                raise InvalidArgument(record.error, code=record.error_code, param="folder")
            if self._engine_state.state.status is not EngineStatus.READY:
                raise self._engine_not_ready(version)
            await self._wait_for_change(version)

    async def wait_until_released(self, version: str, holders_of: Callable[[str], Awaitable[list[str]]]) -> None:
        """Returns when no engine holds the version any more. `holders_of` is a function that returns the names of the
        engines that hold a version.

        Raises FailedPrecondition ("in_use") after `RELEASE_SECONDS`, and the errors of `holders_of`.
        """
        deadline = time.monotonic() + RELEASE_SECONDS
        while holders := await holders_of(version):
            if time.monotonic() > deadline:
                raise FailedPrecondition(
                    f"{version} is still held by {', '.join(sorted(holders))}: requests in flight must finish first",
                    code="in_use",
                    param="version",
                )
            await self._reconciler.wait_for_change(POLL_SECONDS)

    async def _wait_for_change(self, version: str) -> None:
        error = self._retries.last_error(version, REDIS_TOLERANCE_SECONDS)
        if error is not None:
            raise error.copy()
        await self._reconciler.wait_for_change(POLL_SECONDS)

    def _engine_not_ready(self, version: str) -> Unavailable:
        detail = self._engine_state.state.detail
        return Unavailable(
            f"{version} is registered, but the engine is not ready ({detail}); the lora-server continues when it is",
            code="engine_not_ready",
            retry_after=5,
        )
