"""The machine: each version's way from REGISTERED to an alias, gone on with by whichever lora-server has its lease."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable

from pointsman_lora_server.attempts import RetryBackoff
from pointsman_lora_server.domain import DesiredState, Phase
from pointsman_lora_server.publishing import Promoter
from pointsman_lora_server.validating import VersionValidator

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""Seconds after which another lora-server takes over from one that died."""

_RENEWALS = 3  # in that time


class LeaseRegistry(Protocol):
    async def read(self) -> DesiredState: ...
    async def lease(self, what: str, owner: str, seconds: float) -> bool: ...
    async def release(self, what: str, owner: str) -> None: ...


class VersionStateMachine:
    """Nothing of its own is kept: whatever dies, the next look at Redis says how to go on."""

    def __init__(
        self,
        registry: LeaseRegistry,
        validating: VersionValidator,
        publishing: Promoter,
        owner: str,
        lease: float = LEASE_SECONDS,
    ) -> None:
        """`owner`: this process, by a name that no other has."""
        self._registry = registry
        self._validating = validating
        self._publishing = publishing
        self._owner = owner
        self._lease = lease
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self.attempts = RetryBackoff()

    def go_on(self, desired: DesiredState) -> None:
        """Starts work on every version that has some left to do, and on which none is done here already."""
        for name in desired.versions:
            if _is_unfinished(name, desired) and name not in self._under_way and self.attempts.may_try(name):
                task = asyncio.create_task(self._advance(name), name=f"roll-out of {name}")
                self._under_way[name] = task
                task.add_done_callback(functools.partial(self._ended, name))

    def _ended(self, name: str, _: "asyncio.Task[None]") -> None:
        del self._under_way[name]

    async def stop(self) -> None:
        """The leases are let go of, so that others need not wait for their end."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)

    async def _advance(self, name: str) -> None:
        try:
            async with self._leased(f"roll-out:{name}") as mine:
                if mine:
                    await self._steps(name)
        except PointsmanError as error:
            self.attempts.failed(name, error)
        except Exception:
            log.exception("the roll-out of %s broke off", name)
            self.attempts.failed(name, Unavailable("it broke off; the log says where", code="broke_off"))
        else:
            self.attempts.succeeded(name)

    async def _steps(self, name: str) -> None:
        """Reads anew: someone else may have had the lease until now."""
        desired = await self._registry.read()
        if not _is_unfinished(name, desired):
            return
        version, phase = desired.versions[name], desired.standings[name].phase
        if phase is not Phase.READY:
            await self._validating.validate(version, phase)
            desired = await self._registry.read()
        standing = desired.standings.get(name)
        if standing is not None and standing.phase is Phase.READY and standing.word:
            # What serves already has been compared before.
            if name not in desired.aimed_at and not await self._validating.refer_again(version):
                return
            with suppress(InvalidArgument):  # that is told, and the version has failed
                await self._publishing.publish(version, standing.word, standing.force)

    @asynccontextmanager
    async def _leased(self, what: str) -> AsyncIterator[bool]:
        if not await self._registry.lease(what, self._owner, self._lease):
            yield False
            return
        renewing = asyncio.create_task(self._renew(what), name=f"lease of {what}")
        try:
            yield True
        finally:
            renewing.cancel()
            await asyncio.wait({renewing}, timeout=1.0)
            with suppress(Unavailable):
                await self._registry.release(what, self._owner)

    async def _renew(self, what: str) -> None:
        while True:
            await asyncio.sleep(self._lease / _RENEWALS)
            with suppress(Unavailable):  # where Redis is away, nobody can take it
                await self._registry.lease(what, self._owner, self._lease)


def _is_unfinished(name: str, desired: DesiredState) -> bool:
    standing = desired.standings.get(name)
    if standing is None:
        return False
    return standing.phase in (Phase.REGISTERED, Phase.VALIDATING) or (
        standing.phase is Phase.READY and bool(standing.word)
    )
