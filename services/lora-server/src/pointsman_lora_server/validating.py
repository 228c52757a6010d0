"""Tries a version apart from the engine: from REGISTERED to READY or FAILED."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError

from pointsman_lora_server.domain import AdapterVersion, Phase
from pointsman_lora_server.smoke.reference import Reference

log = logging.getLogger(__name__)


class ValidatorStore(Protocol):
    def fetch(self, version: AdapterVersion) -> Path: ...
    def samples(self, version: AdapterVersion) -> Sequence[Any]: ...


class SmokeTest(Protocol):
    async def try_out(self, version: AdapterVersion, folder: Path, samples: Any) -> Reference: ...


class NullSmokeTest:
    """Stands where the trial stands, and tries nothing: then the engine's own answers are all that is looked at."""

    async def try_out(self, version: AdapterVersion, folder: Path, samples: Any) -> Reference:
        return Reference(())


class ValidatorPhases(Protocol):
    async def stand(
        self, version: str, phase: Phase, *, expected: Phase | None = None, error_code: str = "", error: str = ""
    ) -> bool: ...


class Expecting(Protocol):
    def expect(self, version: str, reference: Reference) -> None: ...
    def needs_reference(self, version: str) -> bool: ...


class ValidationMeter(Protocol):
    def validating(self) -> AbstractContextManager[None]: ...


class VersionValidator:
    def __init__(
        self,
        store: ValidatorStore,
        smoke: SmokeTest,
        standings: ValidatorPhases,
        expecting: Expecting,
        meter: ValidationMeter,
    ) -> None:
        self._store = store
        self._smoke = smoke
        self._standings = standings
        self._expecting = expecting
        self._meter = meter
        self._one_at_a_time = asyncio.Lock()  # it is heavy work, beside an engine that answers people

    async def validate(self, version: AdapterVersion, phase: Phase) -> None:
        """`phase`: REGISTERED, or VALIDATING where someone died at it. Raises Unavailable: to be tried again."""
        name = version.version
        async with self._one_at_a_time:
            if phase is Phase.REGISTERED and not await self._standings.stand(
                name, Phase.VALIDATING, expected=Phase.REGISTERED
            ):
                return
            try:
                with self._meter.validating():
                    await self.refer(version)
            except (InvalidArgument, NotFound, FailedPrecondition) as error:
                await self._fail(name, Phase.VALIDATING, error)
            else:
                await self._standings.stand(name, Phase.READY, expected=Phase.VALIDATING)

    async def refer_again(self, version: AdapterVersion) -> bool:
        """Of a READY version that was tried out by a process that is gone, or by another lora-server.

        False where it has failed this time.
        """
        async with self._one_at_a_time:
            try:
                if self._expecting.needs_reference(version.version):
                    await self.refer(version)
            except InvalidArgument as error:
                await self._fail(version.version, Phase.READY, error)
                return False
            return True

    async def refer(self, version: AdapterVersion) -> None:
        """Has PEFT answer with the version, for the engine to be compared with. Raises what is wrong with it."""
        folder = await asyncio.to_thread(self._store.fetch, version)
        samples = await asyncio.to_thread(self._store.samples, version)
        self._expecting.expect(version.version, await self._smoke.try_out(version, folder, samples))

    async def _fail(self, name: str, expected: Phase, error: PointsmanError) -> None:
        log.warning("%s failed: %s", name, error.message)
        await self._standings.stand(name, Phase.FAILED, expected=expected, error_code=error.code, error=error.message)
