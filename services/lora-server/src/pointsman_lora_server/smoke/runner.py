"""Tries a version apart from the engine, in a process that is started when it is needed and ends when it is not."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pointsman_servicekit.errors import InvalidArgument, Unavailable

from pointsman_lora_server.checks.samples import Sample
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.smoke.agreement import Agreement, Answer, compare
from pointsman_lora_server.smoke.child import SmokeWorker, WorkerDied, command
from pointsman_lora_server.smoke.reference import Reference
from pointsman_lora_server.smoke.verdict import check_trial

log = logging.getLogger(__name__)

MODULE = "pointsman_lora_server.smoke.process"


@dataclass(frozen=True, slots=True)
class SmokeLimits:
    rows: int = 4
    tokens: int = 12
    """New ones for each row. What a trial costs is rows, tokens and the length of the prompts."""
    idle_seconds: float = 60.0
    """After which the process ends; its next start costs about 10 s."""
    start_seconds: float = 900.0
    trial_seconds: float = 900.0
    """A start takes about 10 s of one core, a trial about 3; but behind everything else: a busy machine makes it
    wait."""


class PeftSmokeTest:
    """One version at a time: the others wait."""

    def __init__(
        self, python: Path, base_model: Path, limits: SmokeLimits = SmokeLimits(), *, process: Sequence[str] = ()
    ) -> None:
        """`python` is the engine's; `process` is what runs in place of it and of our module."""
        self._command = tuple(process) or command(python, MODULE, str(base_model.resolve()))
        self._limits = limits
        self._child: SmokeWorker | None = None
        self._one_at_a_time = asyncio.Lock()
        self._idle: asyncio.Task[None] | None = None
        self._closed = False

    async def try_out(self, version: AdapterVersion, folder: Path, samples: Sequence[Sample]) -> Reference:
        """What PEFT answers with the adapter in `folder`.

        Raises InvalidArgument (not_finite, no_effect, does_not_stop, peft_refused) or Unavailable (smoke_unavailable).
        """
        order = {
            "folder": str(folder),
            "samples": [asdict(sample) for sample in samples],
            "rows": self._limits.rows,
            "tokens": self._limits.tokens,
        }
        async with self._one_at_a_time:
            self._stay()
            try:
                started = time.monotonic()
                answer = await self._ask(order)
                log.info("%s was tried with PEFT in %.1f s", version.version, time.monotonic() - started)
            finally:
                if not self._closed:
                    self._idle = asyncio.create_task(self._end_when_idle(), name="end of the smoke process")
        if "refused" in answer:
            raise InvalidArgument(
                f"PEFT itself cannot load {version.version}: {answer['refused']}; save the adapter again with PEFT",
                code="peft_refused",
            )
        return check_trial(version.version, answer["tried"], bool(samples))

    @staticmethod
    def compare(reference: Reference, answers: Sequence[Answer]) -> Agreement:
        """Raises InvalidArgument ("differs_from_peft")."""
        return compare(reference, answers)

    async def close(self) -> None:
        """A trial in progress is given up: Unavailable."""
        self._closed = True
        self._stay()
        await self._end()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._child.pid if self._child and self._child.alive else None

    async def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        for last in (False, True):
            try:
                child = await self._running()
                await child.tell(order)
                answer = await child.answer(self._limits.trial_seconds)
                if "refused" in answer:
                    await self._end()  # PEFT may have left the base half changed
                return answer
            except WorkerDied as error:
                log.warning("the process that tries adapters: %s", error)
                await self._end()
                if last or self._closed:
                    raise _unavailable(f"its process died: {error}") from error
            except BaseException:
                await self._end()  # in the middle of a trial, so that its next answer would be the last one's
                raise
        raise AssertionError("unreachable")

    async def _running(self) -> SmokeWorker:
        """Raises Died or Unavailable."""
        if self._child and self._child.alive:
            return self._child
        await self._end()
        if self._closed:
            raise _unavailable("the lora-server is stopping")
        try:
            self._child = child = await SmokeWorker.start(self._command)
        except OSError as error:
            raise _unavailable(f"{self._command[0]} cannot be started ({error}); name the engine's python") from error
        greeting = await child.answer(self._limits.start_seconds)
        if "unavailable" in greeting:
            raise _unavailable(greeting["unavailable"])
        return child

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            await child.end()

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self._limits.idle_seconds)
        async with self._one_at_a_time:
            await self._end()

    def _stay(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"the version cannot be tried apart from the engine: {why}. Install peft and transformers in the engine's "
        "environment (POINTSMAN_LORA_ENGINE_PYTHON), or do without the trial: POINTSMAN_LORA_SMOKE=off",
        code="smoke_unavailable",
        retry_after=30.0,
    )
