"""The state machine of adapter versions: REGISTERED -> VALIDATING -> READY or FAILED, then the move of the requested
alias.

The lora-server that holds a lease on the version in Redis advances the version. All progress is stored in Redis: if a
lora-server dies at any point, another one continues.
"""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError, Unavailable

from pointsman_lora_server.adapters.promotion import Promoter
from pointsman_lora_server.adapters.warm_up import WarmUp
from pointsman_lora_server.domain import AdapterVersion, DesiredState, Phase
from pointsman_lora_server.metrics import LoraServerMetrics
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_lora_server.smoke.reference import Reference
from pointsman_lora_server.store import ArtifactStore

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""Seconds after which the lease of a lora-server that died expires, so that another one can take over its versions."""

_RENEWALS_PER_LEASE = 3

MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0


class SmokeTest(Protocol):
    """Interface of a smoke test, which runs a version outside the engine before any engine loads it; `PeftSmokeTest`
    and `NullSmokeTest` implement it.

    The arguments of `run` are the folder of the version's files and the version's sample rows (`attachments.Sample`),
    which may be empty. The result has the answers that the engine should give. `run` raises InvalidArgument if the
    version must not serve, and Unavailable if the test cannot be run.
    """

    async def run(self, version: AdapterVersion, folder: Path, samples: Sequence[Any]) -> Reference: ...


class NullSmokeTest:
    """Implements `SmokeTest` without running a test. Its reference has no answers, so the engine's answers are not
    compared.
    """

    async def run(self, version: AdapterVersion, folder: Path, samples: Sequence[Any]) -> Reference:
        return Reference(())


class VersionValidator:
    """Runs the smoke tests of adapter versions, and sets a version's phase to READY if it passes and to FAILED if not.

    It runs one test at a time, because a test is heavy work on a machine whose engine serves users.
    """

    def __init__(
        self,
        store: ArtifactStore,
        smoke_test: SmokeTest,
        registry: AdapterRegistry,
        warm_up: WarmUp,
        metrics: LoraServerMetrics,
    ) -> None:
        self._store = store
        self._smoke_test = smoke_test
        self._registry = registry
        self._warm_up = warm_up
        self._metrics = metrics
        self._lock = asyncio.Lock()

    async def validate(self, version: AdapterVersion, phase: Phase) -> None:
        """Runs the version's smoke test, and sets its phase to READY, or to FAILED if it fails the test or its files
        are missing or damaged.

        `phase` is the version's phase as last read: REGISTERED, or VALIDATING if a process died during the validation.
        Does nothing if `phase` is REGISTERED and the version has another phase by now. Raises Unavailable if the test
        cannot be run, the store cannot be reached or Redis does not answer, and ResourceExhausted if the disk is full;
        the caller has to retry then.
        """
        name = version.version
        async with self._lock:
            if phase is Phase.REGISTERED and not await self._registry.set_phase(
                name, Phase.VALIDATING, expected=Phase.REGISTERED
            ):
                return
            try:
                with self._metrics.time_validation():
                    await self._compute_reference(version)
            except (InvalidArgument, NotFound, FailedPrecondition) as error:
                await self._fail(name, Phase.VALIDATING, error)
            else:
                await self._registry.set_phase(name, Phase.READY, expected=Phase.VALIDATING)

    async def ensure_reference(self, version: AdapterVersion) -> bool:
        """Makes sure that reference answers of a READY version are stored, unless the engine's answers were already
        compared with them.

        Runs the smoke test if needed (`WarmUp.needs_reference`). Returns False if the version fails the test, and marks
        it as FAILED; otherwise returns True. Raises Unavailable if the test cannot be run, the store cannot be reached
        or Redis does not answer, ResourceExhausted if the disk is full, and NotFound or FailedPrecondition if the
        version's files are missing or damaged.
        """
        async with self._lock:
            try:
                if self._warm_up.needs_reference(version.version):
                    await self._compute_reference(version)
            except InvalidArgument as error:
                await self._fail(version.version, Phase.READY, error)
                return False
            return True

    async def _compute_reference(self, version: AdapterVersion) -> None:
        """Runs the smoke test and stores the answers that the engine should give. Raises the errors of `SmokeTest.run`
        and of the store.
        """
        folder = await asyncio.to_thread(self._store.fetch, version)
        samples = await asyncio.to_thread(self._store.samples, version)
        self._warm_up.set_reference(version.version, await self._smoke_test.run(version, folder, samples))

    async def _fail(self, name: str, expected: Phase, error: PointsmanError) -> None:
        log.warning("%s failed: %s", name, error.message)
        await self._registry.set_phase(
            name, Phase.FAILED, expected=expected, error_code=error.code, error=error.message
        )


class VersionStateMachine:
    """Advances unfinished adapter versions in background tasks, at most one task for each version.

    A version is unfinished if it is REGISTERED or VALIDATING, or if it is READY and an alias is to be moved to it.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        validator: VersionValidator,
        promoter: Promoter,
        owner: str,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`owner` is the name under which this process holds leases on versions in Redis; no other process may use it.
        A lease expires after `lease_seconds` unless it is renewed.
        """
        self._registry = registry
        self._validator = validator
        self._promoter = promoter
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._seen = DesiredState()
        self._unfinished: set[str] = set()
        """The names of the unfinished versions in `_seen`."""
        self.retries = RetryBackoff()

    def advance(self, desired: DesiredState) -> None:
        """Starts a task for each unfinished version in `desired` that has no task in this process and that `retries`
        allows to be tried now.

        Call it after each change of the desired state, and periodically for the retries.
        """
        changed = desired.changed_since(self._seen)
        candidates = desired.versions if changed is None else self._unfinished | changed
        self._seen, self._unfinished = desired, {name for name in candidates if _is_unfinished(name, desired)}
        for name in self._unfinished:
            if name not in self._tasks and self.retries.is_due(name):
                task = asyncio.create_task(self._advance(name), name=f"advance {name}")
                self._tasks[name] = task
                task.add_done_callback(functools.partial(self._remove_task, name))

    def _remove_task(self, name: str, _: "asyncio.Task[None]") -> None:
        del self._tasks[name]

    async def stop(self) -> None:
        """Cancels the tasks and waits up to 2 seconds until they have released their leases, so that other lora-servers
        can take over at once.
        """
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)

    async def _advance(self, name: str) -> None:
        try:
            async with self._lease(f"roll-out:{name}") as acquired:
                if acquired:
                    await self._run_steps(name)
        except PointsmanError as error:
            self.retries.record_failure(name, error)
        except Exception:
            log.exception("cannot advance %s", name)
            self.retries.record_failure(
                name, Unavailable("an unexpected error stopped the work on it; see the log", code="broke_off")
            )
        else:
            self.retries.record_success(name)

    async def _run_steps(self, name: str) -> None:
        """Advances one version. Its state is read again first, because another process may have advanced it until
        now.
        """
        desired = await self._registry.read()
        if not _is_unfinished(name, desired):
            return
        version, phase = desired.versions[name], desired.phases[name].phase
        if phase is not Phase.READY:
            await self._validator.validate(version, phase)
            desired = await self._registry.read()
        record = desired.phases.get(name)
        if record is not None and record.phase is Phase.READY and record.alias_suffix:
            # A version that serves already has been compared with its reference before.
            if name not in desired.alias_targets and not await self._validator.ensure_reference(version):
                return
            with suppress(
                InvalidArgument
            ):  # the version is marked as failed and the error is logged where it is raised
                await self._promoter.promote(version, record.alias_suffix, record.force)

    @asynccontextmanager
    async def _lease(self, key: str) -> AsyncIterator[bool]:
        """Yields whether the lease `key` in Redis was acquired. If so, it is renewed during the block and released at
        its end.
        """
        if not await self._registry.acquire_lease(key, self._owner, self._lease_seconds):
            yield False
            return
        renewal = asyncio.create_task(self._renew(key), name=f"renew lease {key}")
        try:
            yield True
        finally:
            renewal.cancel()
            await asyncio.wait({renewal}, timeout=1.0)
            with suppress(Unavailable):
                await self._registry.release_lease(key, self._owner)

    async def _renew(self, key: str) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / _RENEWALS_PER_LEASE)
            with suppress(Unavailable):  # while Redis is unavailable, no other process can take the lease either
                await self._registry.acquire_lease(key, self._owner, self._lease_seconds)


def _is_unfinished(name: str, desired: DesiredState) -> bool:
    record = desired.phases.get(name)
    if record is None:
        return False
    return record.phase in (Phase.REGISTERED, Phase.VALIDATING) or (
        record.phase is Phase.READY and bool(record.alias_suffix)
    )


@dataclass(slots=True)
class _Failure:
    error: PointsmanError
    backoff: float
    not_before: float
    since: float
    """When the version first failed with this error code. Both this and `not_before` are times of `time.monotonic`."""


class RetryBackoff:
    """Decides when work on an adapter version that has failed may be tried again.

    The wait doubles with each failure, from `MIN_BACKOFF_SECONDS` to `MAX_BACKOFF_SECONDS`. An error is only logged if
    its code differs from that of the version's last failure.
    """

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def is_due(self, version: str) -> bool:
        """Returns whether work on the version may be tried now: it has not failed since its last success, or the wait
        after its last failure is over.
        """
        failure = self._failures.get(version)
        return failure is None or time.monotonic() >= failure.not_before

    def last_error(self, version: str, redis_tolerance: float = 0.0) -> PointsmanError | None:
        """Returns the error of the last attempt on the version; None if that succeeded, or if there was no attempt
        since `reset`.

        Also returns None for an error "redis_unavailable" that first occurred less than `redis_tolerance` seconds ago.
        """
        failure = self._failures.get(version)
        if failure is None:
            return None
        is_recent = time.monotonic() - failure.since < redis_tolerance
        return None if failure.error.code == "redis_unavailable" and is_recent else failure.error

    def record_failure(self, version: str, error: PointsmanError) -> None:
        last = self._failures.get(version)
        if last is None or last.error.code != error.code:
            log.warning("%s: %s; it is retried", version, error.message)
        now, backoff = time.monotonic(), min(2 * last.backoff, MAX_BACKOFF_SECONDS) if last else MIN_BACKOFF_SECONDS
        since = last.since if last and last.error.code == error.code else now
        self._failures[version] = _Failure(error, backoff, now + backoff, since)

    def record_success(self, version: str) -> None:
        self._failures.pop(version, None)

    def reset(self) -> None:
        """Forgets all failures, so that every version may be tried at once. Called, for example, when the engine has
        restarted.
        """
        self._failures.clear()
