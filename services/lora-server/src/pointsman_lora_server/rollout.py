"""What is asked of the lora-server: register an adapter, move an alias, list what there is, have a version loaded."""

import asyncio
import builtins
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

from pointsman_lora_server.awaiting import VersionWaiter
from pointsman_lora_server.board import EngineStateStore
from pointsman_lora_server.domain import (
    AdapterVersion,
    Alias,
    Canary,
    CanaryTerms,
    Change,
    DesiredState,
    EngineState,
    Phase,
    Placement,
    VersionReport,
    check_alias,
    check_name,
    check_version,
    is_version,
    report_of,
)
from pointsman_lora_server.hot_swap import AdapterLoader
from pointsman_lora_server.placing import PlacementPlanner
from pointsman_lora_server.publishing import PromotionGate
from pointsman_lora_server.reconcile import Reconciler
from pointsman_lora_server.roll_outs import VersionStateMachine

log = logging.getLogger(__name__)


class ServiceStore(Protocol):
    def add(self, name: str, folder: Path, facts: Mapping[str, str], parent: str, author: str) -> AdapterVersion: ...
    def delete(self, version: AdapterVersion) -> None: ...


class ServiceRegistry(Protocol):
    """`registry.Registry` says what each raises."""

    async def record(self, version: AdapterVersion, word: str, force: bool, author: str) -> AdapterVersion: ...
    async def move(self, alias: str, version: str, expected: str = "", author: str = "", reason: str = "") -> Alias: ...
    async def set_canary(
        self, alias: str, canary: Canary | None, expected: str = "", author: str = "", reason: str = ""
    ) -> Alias: ...
    async def rollback(self, alias: str, expected: str = "", author: str = "", reason: str = "") -> Alias: ...
    async def pin(self, version: str, pinned: bool, author: str) -> None: ...
    async def place(self, name: str, placement: Placement, expected: Placement | None, author: str) -> None: ...
    async def retire(self, version: str, author: str, reason: str = "") -> None: ...
    async def delete(self, version: str, author: str) -> None: ...
    async def holders(self, version: str) -> list[str]: ...
    async def history(self, name: str, limit: int) -> list[Change]: ...
    async def count(self, outcomes: Any) -> None: ...
    async def counts(self, alias: Alias) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class AdapterListing:
    versions: Sequence[VersionReport]
    aliases: Sequence[Alias]
    placements: Mapping[str, Placement]
    """Of adapters that are not on every engine."""


class AdapterService:
    """Nothing is moved that does not serve: a version is loaded here before an alias points to it."""

    def __init__(
        self,
        store: ServiceStore,
        registry: ServiceRegistry,
        hot_swap: AdapterLoader,
        roll_outs: VersionStateMachine,
        reconciler: Reconciler,
        board: EngineStateStore,
        gate: PromotionGate,
        placing: PlacementPlanner,
    ) -> None:
        self._store = store
        self._registry = registry
        self._hot_swap = hot_swap
        self._roll_outs = roll_outs
        self._reconciler = reconciler
        self._awaiting = VersionWaiter(reconciler, roll_outs.attempts, board)
        self._board = board
        self._gate = gate
        self._placing = placing

    async def register(
        self, name: str, folder: Path, word: str, facts: Mapping[str, str], parent: str, author: str, force: bool
    ) -> VersionReport:
        """`word` is the alias's part after the "@"; empty moves none.

        Returns when the version is resident and the alias, if any, points to it. From the record on the roll-out goes
        on by itself, whoever waits: what Unavailable or ResourceExhausted tells of here is tried again.
        """
        check_name(name)
        if word:
            check_alias(f"{name}@{word}")
        found = await asyncio.to_thread(self._store.add, name, folder, facts, parent, author)
        refusal = self._refusal(found, word, force)
        version = await self._registry.record(found, "" if refusal else word, force, author)
        log.info("%s is registered, from %s", version.version, folder)
        self._roll_outs.attempts.succeeded(version.version)  # what went wrong before is void
        self._hot_swap.forgive(version.version)
        await self._refresh()
        self._reconciler.wake()
        if refusal:
            raise refusal
        await self._awaiting.until_ready(version.version)
        await self._hot_swap.ensure_agreed(version)
        if word:
            await self._awaiting.until_moved(f"{name}@{word}", version.version)
        await self._refresh()
        return report_of(version.version, self._reconciler.desired, self._board.state)

    async def list(self, name: str) -> AdapterListing:
        """Of all adapters where `name` is empty; the newest version first."""
        desired = await self._reconciler.refresh()
        versions = [version for version in desired.versions.values() if name in ("", version.name)]
        versions.sort(key=lambda version: (version.name, -version.created_unix_ms, version.version))
        aliases = [alias for alias in desired.aliases if name in ("", alias.alias.partition("@")[0])]
        reports = [report_of(version.version, desired, self._board.state) for version in versions]
        placements = {of: placement for of, placement in desired.placements.items() if name in ("", of)}
        return AdapterListing(reports, aliases, placements)

    async def canary_requests(self, alias: Alias) -> int:
        """That its canary has answered. Raises Unavailable."""
        if alias.canary is None:
            return 0
        counts = (await self._registry.counts(alias)).get(alias.canary.version)
        return counts.requests if counts else 0

    async def get(self, version_or_alias: str) -> VersionReport:
        """Raises NotFound."""
        desired = await self._reconciler.refresh()
        alias = next((alias for alias in desired.aliases if alias.alias == version_or_alias), None)
        version = alias.version if alias else version_or_alias
        _known(version, desired)
        return report_of(version, desired, self._board.state)

    async def set_alias(self, alias: str, version: str, expected: str, author: str, force: bool) -> Alias:
        known = await self._movable(alias, version, expected)
        self._gate.check(known, alias.partition("@")[2], force)
        await self._warm(known)
        return await self._moved(await self._registry.move(alias, version, expected, author))

    async def set_canary(
        self, alias: str, version: str, weight: float, terms: CanaryTerms, author: str, expected: str
    ) -> Alias:
        """A weight of 0 ends it; one of 1 is as good as a move, and guarded like one."""
        canary = None
        if weight or version:
            canary = Canary(version, weight, terms)
            known = await self._movable(alias, version, expected)
            if weight == 1:
                self._gate.check(known, alias.partition("@")[2], force=False)
            await self._warm(known)
        else:
            check_alias(alias)
        return await self._moved(await self._registry.set_canary(alias, canary, expected, author))

    async def rollback(self, alias: str, expected: str, author: str, reason: str) -> Alias:
        """Also while this engine is away: what an alias pointed to before can be loaded by others, and on demand."""
        check_alias(alias)
        desired = await self._reconciler.refresh()
        now = next((each for each in desired.aliases if each.alias == alias), None)
        if now and not now.canary and now.previous and _is_ready(now.previous, desired):
            try:
                await self._hot_swap.ensure(desired.versions[now.previous])
            except Unavailable as error:
                log.warning("%s is rolled back to what is not resident here: %s", alias, error.message)
        return await self._moved(await self._registry.rollback(alias, expected, author, reason))

    async def place(self, name: str, placement: Placement, expected: Placement | None, author: str) -> None:
        check_name(name)
        await self._registry.place(name, placement, expected, author)
        log.info("%s is placed: %s", name, placement)
        await self._refresh()

    async def pin(self, version: str, pinned: bool, author: str) -> VersionReport:
        check_version(version)
        await self._registry.pin(version, pinned, author)
        return await self.get(version)

    async def retire(self, version: str, author: str, reason: str = "") -> VersionReport:
        check_version(version)
        await self._registry.retire(version, author, reason)
        log.info("%s is retired%s", version, f": {reason}" if reason else "")
        return await self.get(version)

    async def delete(self, version: str, author: str) -> None:
        """Raises FailedPrecondition ("in_use") while an engine holds it: its files may be needed."""
        check_version(version)
        desired = await self._reconciler.refresh()
        known = _known(version, desired)
        if desired.standings[version].phase in (Phase.RETIRED, Phase.FAILED):
            await self._awaiting.until_let_go(version, self._registry.holders)
        await self._registry.delete(version, author)
        await asyncio.to_thread(self._store.delete, known)
        log.info("%s is deleted", version)
        await self._reconciler.refresh()

    async def history(self, name: str, limit: int) -> "builtins.list[Change]":
        """The newest first."""
        return await self._registry.history(name, limit)

    async def ensure(self, version: str) -> EngineState:
        """Returns once the engine holds the version. What is resident already is told without asking Redis."""
        check_version(version)
        desired = self._reconciler.desired
        if version not in self._board.state.resident and not _is_ready(version, desired):
            desired = await self._reconciler.refresh()
            _known(version, desired)
            _check_ready(version, desired)
        if version in desired.versions:
            self._placing.asked_for(version)
            await self._hot_swap.ensure(desired.versions[version])
        return self._board.state

    async def report(self, outcomes: Sequence[Any]) -> None:
        """What came of requests to aliases with a canary."""
        await self._registry.count(outcomes)

    async def _warm(self, version: AdapterVersion) -> None:
        """Where the version is placed, on our engine alone where no number of engines is named."""
        if not self._reconciler.desired.placement_of(version.version).copies:
            await self._hot_swap.ensure(version)
        await self._placing.until_warm(version.version, lambda: self._reconciler.desired)

    async def _movable(self, alias: str, version: str, expected: str) -> AdapterVersion:
        """Raises what the move would, before the load, which takes seconds; the move itself asks again."""
        check_alias(alias)
        check_version(version)
        if expected:
            check_version(expected)
        if alias.partition("@")[0] != version.partition("@")[0]:
            raise InvalidArgument(
                f"'{alias}' is an alias of another adapter than '{version}'", code="bad_alias", param="alias"
            )
        desired = await self._reconciler.refresh()
        known = _known(version, desired)
        _check_ready(version, desired)
        current = next((each.version for each in desired.aliases if each.alias == alias), "")
        if expected and current not in (expected, version):
            raise FailedPrecondition(
                f"'{alias}' points to {current or 'nothing'}, not to {expected}: someone moved it since it was read",
                code="alias_moved",
                param="expected_version",
            )
        return known

    async def _moved(self, alias: Alias) -> Alias:
        canary = f", and for {alias.canary.weight:.0%} to {alias.canary.version}" if alias.canary else ""
        log.info("%s points to %s%s (revision %d)", alias.alias, alias.version, canary, alias.revision)
        await self._refresh()
        return alias

    async def _refresh(self) -> None:
        """What is done is done: where Redis falls silent after it, the reconciler sees it a moment later."""
        try:
            await self._reconciler.refresh()
        except Unavailable as error:
            log.warning("%s Those who watch are told when it is back", error.message)

    def _refusal(self, version: AdapterVersion, word: str, force: bool) -> FailedPrecondition | None:
        try:
            self._gate.check(version, word, force)
        except FailedPrecondition as error:
            return error
        return None


def _known(version: str, desired: DesiredState) -> AdapterVersion:
    if version not in desired.versions:
        kind = "version" if is_version(version) else "version or alias"
        raise NotFound(f"no {kind} '{version}' is registered; List names those that are", code="unknown_version")
    return desired.versions[version]


def _is_ready(version: str, desired: DesiredState) -> bool:
    standing = desired.standings.get(version)
    return standing is not None and standing.phase is Phase.READY


def _check_ready(version: str, desired: DesiredState) -> None:
    standing = desired.standings[version]
    if standing.phase is not Phase.READY:
        why = f": {standing.error}" if standing.error else ""
        raise FailedPrecondition(
            f"{version} is {standing.phase.value}, and only what is ready is loaded{why}",
            code="not_ready",
            param="version",
        )
