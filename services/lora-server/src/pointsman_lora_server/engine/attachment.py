"""Watches an engine that this lora-server did not start: detects that it is unreachable, was restarted, serves another
model or is corrupted.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_lora_server.domain import EngineStatus
from pointsman_lora_server.engine.completion import EngineCorrupted, Probe
from pointsman_lora_server.engine.supervisor import MAX_SILENT_SECONDS, PROBE_INTERVAL_SECONDS
from pointsman_lora_server.engine.vllm_client import EngineFacts, VllmClient
from pointsman_lora_server.engine_state import EngineStateStore

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class Attachment:
    """Watches an engine that this process did not start, and publishes its status and the number of its runs (`life`).

    A run ends when the engine is restarted, or cannot be used for some time. Implements `EngineMonitor`.
    """

    def __init__(
        self,
        *,
        url: str,
        base_model: str,
        client: VllmClient,
        engine_state: EngineStateStore,
        probe: Probe,
        apply_limits: Callable[[EngineFacts], str],
        probe_interval: float = PROBE_INTERVAL_SECONDS,
    ) -> None:
        """`url` is the engine's base URL, and `base_model` the name under which it must serve the base model.
        `apply_limits` is called at the start of each run with the properties that the engine reports; it returns a note
        for the status text, which may be empty. `probe_interval` is the time between two probes in seconds.
        """
        self._url = url
        self._base_model = base_model
        self._client = client
        self._engine_state = engine_state
        self._probe = probe
        self._apply_limits = apply_limits
        self._probe_interval = probe_interval
        self._boot = ""
        """The boot id that the engine reported for the last observed run; empty if it reports none."""
        self._is_away = True
        """Whether the engine was unusable at the last check."""
        self._corruption = ""
        self._held_before: frozenset[str] = frozenset()
        """The adapter versions that the engine held when its corruption was detected."""
        self._answered_at = time.monotonic()
        self._probe_due_at = 0.0

    async def run(self) -> None:
        """Checks the engine every `POLL_SECONDS` until cancelled. The engine keeps running afterwards."""
        while True:
            try:
                await self._check()
                self._answered_at = time.monotonic()
            except PointsmanError as error:
                self._report_problem(error)
            await asyncio.sleep(POLL_SECONDS)

    def restart(self, reason: str) -> None:
        """Publishes the engine as DOWN, with `reason` in the status text, until somebody has restarted the engine. This
        process did not start the engine, so it cannot restart it.
        """
        self._held_before = self._engine_state.state.resident
        self._corruption = f"{reason}; restart the engine at {self._url}, which was not started here"
        self._set_down(self._corruption)

    async def _check(self) -> None:
        facts = await self._client.identify()
        if self._base_model not in facts.base_models:
            served = ", ".join(sorted(facts.base_models)) or "no model"
            self._set_away(
                f"the engine at {self._url} serves {served}, and not '{self._base_model}' "
                "(POINTSMAN_LORA_SERVED_MODEL_NAME)"
            )
            return
        is_restarted = await self._is_restarted(facts)
        self._boot = facts.boot
        if is_restarted:
            self._corruption = ""
        if self._corruption:
            self._set_down(self._corruption)
        elif is_restarted or self._is_away:
            await self._start_run(facts)
        elif time.monotonic() >= self._probe_due_at:
            await self._check_answers(self._probe.check)

    async def _is_restarted(self, facts: EngineFacts) -> bool:
        """Returns whether the engine was restarted since the last check. A restarted engine reports another boot id.

        An engine that reports no boot id counts as restarted if it was unusable at the last check, or has lost all the
        versions that it held.
        """
        if facts.boot or self._boot:
            return facts.boot != self._boot
        held = self._held_before if self._corruption else self._engine_state.state.resident
        return self._is_away or (bool(held) and held.isdisjoint(await self._client.list_adapters()))

    async def _start_run(self, facts: EngineFacts) -> None:
        life = self._engine_state.state.life + 1
        self._engine_state.update(status=EngineStatus.STARTING, life=life, detail=f"attaching to {self._url}")
        note = self._apply_limits(facts)
        if await self._check_answers(self._probe.start):
            self._is_away = False
            detail = f"ready; {note}" if note else "ready"
            log.info("attached to the engine at %s: %s", self._url, detail)
            self._engine_state.update(status=EngineStatus.READY, detail=detail)

    async def _check_answers(self, check: Callable[[], Awaitable[None]]) -> bool:
        """Runs `check`, a method of the probe; returns False if it raises EngineCorrupted or Unavailable."""
        self._probe_due_at = time.monotonic() + self._probe_interval
        try:
            await check()
        except EngineCorrupted as error:
            self.restart(error.message)
        except Unavailable as error:
            log.warning("the base model cannot be probed: %s", error.message)
        else:
            return True
        return False

    def _report_problem(self, error: PointsmanError) -> None:
        """Publishes the engine as DOWN. A timeout is ignored until the engine has not answered for
        `MAX_SILENT_SECONDS`, since it may be busy.
        """
        silent_seconds = time.monotonic() - self._answered_at
        if isinstance(error.__cause__, TimeoutError) and silent_seconds < MAX_SILENT_SECONDS:
            return
        self._set_away(f"the engine at {self._url} cannot be used: {error.message}")

    def _set_away(self, detail: str) -> None:
        self._is_away = True
        self._set_down(self._corruption or detail)

    def _set_down(self, detail: str) -> None:
        if detail != self._engine_state.state.detail:
            log.error("%s", detail)
        self._engine_state.update(status=EngineStatus.DOWN, detail=detail)
