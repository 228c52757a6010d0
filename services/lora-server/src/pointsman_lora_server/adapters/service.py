"""The operations of the adapter API: register, list, move aliases, set canaries, place, pin, retire, delete, load."""

import asyncio
import builtins
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_servicekit.canary_reports import CanaryReport
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

from pointsman_lora_server.adapters.loading import AdapterLoader
from pointsman_lora_server.adapters.placement import PlacementPlanner
from pointsman_lora_server.adapters.promotion import PromotionGate
from pointsman_lora_server.adapters.reconciler import Reconciler
from pointsman_lora_server.adapters.state_machine import VersionStateMachine
from pointsman_lora_server.adapters.waiting import VersionWaiter
from pointsman_lora_server.domain import (
    ON_EVERY_ENGINE,
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
    adapter_name,
    check_alias,
    check_name,
    check_version,
    is_ready,
    is_version,
    report_of,
)
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_lora_server.store import ArtifactStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdapterListing:
    versions: Sequence[VersionReport]
    aliases: Sequence[Alias]
    placements: Mapping[str, Placement]
    """Adapter name -> placement; adapters that are placed on every engine are missing."""


class AdapterService:
    """Implements the operations of the adapter API. `author` and `reason` arguments are stored in the history of
    changes.

    Methods that change something, and `ensure_loaded`, raise InvalidArgument if an adapter name, version or alias is
    malformed; `report_canary_metrics` and the methods that only read do not check these. Methods that call Redis raise
    Unavailable ("redis_unavailable") if it does not answer. Methods that read or return a record raise
    FailedPrecondition ("unreadable_record") if it cannot be parsed.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        registry: AdapterRegistry,
        loader: AdapterLoader,
        state_machine: VersionStateMachine,
        reconciler: Reconciler,
        engine_state: EngineStateStore,
        gate: PromotionGate,
        placement: PlacementPlanner,
    ) -> None:
        self._store = store
        self._registry = registry
        self._loader = loader
        self._state_machine = state_machine
        self._reconciler = reconciler
        self._waiter = VersionWaiter(reconciler, state_machine.retries, engine_state)
        self._engine_state = engine_state
        self._gate = gate
        self._placement = placement

    async def register(
        self,
        name: str,
        source: str | Path,
        *,
        alias_suffix: str,
        facts: Mapping[str, str],
        parent: str,
        author: str,
        force: bool,
    ) -> VersionReport:
        """Stores an adapter from the folder or URL `source` as a new version, and moves an alias to it if
        `alias_suffix` is not empty.

        Returns when this engine holds the version and the alias points to it. `alias_suffix` is the part of the alias
        after the "@". `facts` are stored with the version. `parent` is the version from which training started, or
        empty. `force` moves a protected alias even if the version did not score better than prompting. Once the version
        is recorded in Redis, the work continues even if the caller disconnects.

        Raises InvalidArgument if the adapter fails a check or a test, NotFound if there is no such folder or
        repository, and FailedPrecondition if a protected alias rejects the version ("not_better"; the version stays
        registered) or the version was retired meanwhile ("not_ready"). Raises Unavailable or ResourceExhausted if the
        work cannot be done now; if the version is already recorded, the work is retried in the background.
        """
        check_name(name)
        if alias_suffix:
            check_alias(f"{name}@{alias_suffix}")
        stored = await asyncio.to_thread(self._store.add, name, source, facts, parent, author)
        rejection = self._gate_error(stored, alias_suffix, force)
        version = await self._registry.add_version(stored, "" if rejection else alias_suffix, force, author)
        log.info("%s is registered, from %s", version.version, source)
        self._state_machine.retries.record_success(version.version)  # earlier failures no longer apply
        self._loader.clear_rejection(version.version)
        await self._publish_change()
        self._reconciler.wake()
        if rejection:
            raise rejection
        await self._waiter.wait_until_ready(version.version)
        await self._loader.ensure_verified(version)
        if alias_suffix:
            await self._waiter.wait_until_alias_moved(f"{name}@{alias_suffix}", version.version)
        await self._publish_change()
        return report_of(version.version, self._reconciler.desired, self._engine_state.state)

    async def list(self, name: str) -> AdapterListing:
        """Lists the versions, aliases and placement of the adapter `name`, or of all adapters if `name` is empty.

        Versions are sorted by adapter name, then newest first.
        """
        desired = await self._reconciler.refresh()
        versions = [version for version in desired.versions.values() if name in ("", version.name)]
        versions.sort(key=lambda version: (version.name, -version.created_unix_ms, version.version))
        aliases = [alias for alias in desired.aliases if name in ("", adapter_name(alias.alias))]
        reports = [report_of(version.version, desired, self._engine_state.state) for version in versions]
        placed = {version.name: desired.placement_of(version.name) for version in versions}
        placements = {adapter: placement for adapter, placement in placed.items() if placement != ON_EVERY_ENGINE}
        return AdapterListing(reports, aliases, placements)

    async def count_canary_requests(self, alias: Alias) -> int:
        """Returns how many requests the alias's canary has received since the alias was last changed, as reported by
        gateways; 0 if it has no canary.
        """
        if alias.canary is None:
            return 0
        counts = (await self._registry.canary_counts(alias)).get(alias.canary.version)
        return counts.requests if counts else 0

    async def get(self, version_or_alias: str) -> VersionReport:
        """Returns a report on a version, or on the stable version of an alias. Raises NotFound if no version or alias
        has this name.
        """
        desired = await self._reconciler.refresh()
        alias = next((alias for alias in desired.aliases if alias.alias == version_or_alias), None)
        version = alias.version if alias else version_or_alias
        _known(version, desired)
        return report_of(version, desired, self._engine_state.state)

    async def set_alias(self, alias: str, version: str, expected: str, author: str, force: bool) -> Alias:
        """Loads a version, then points an alias to it.

        If the adapter is placed by demand or by a number of copies above 0, all engines on which the version is placed
        load it first; otherwise this engine alone does. `expected` is the version to which the alias must point now;
        empty accepts any. If the alias already points to `version` and has no canary, `expected` is ignored. `force`
        moves a protected alias even if the version did not score better than prompting.

        Raises InvalidArgument for a malformed name or a version of another adapter, NotFound for an unknown version,
        FailedPrecondition ("not_ready", "alias_moved", or "not_better" if a protected alias rejects the version), and
        Unavailable if the version cannot be loaded now ("not_warm" after `MAX_WARM_SECONDS`).
        """
        known = await self._check_move(alias, version, expected)
        self._gate.check(known, alias.partition("@")[2], force)
        await self._load_for_move(known)
        return await self._finish_move(await self._registry.move_alias(alias, version, expected, author))

    async def set_canary(
        self, alias: str, version: str, weight: float, terms: CanaryTerms, *, author: str, expected: str, force: bool
    ) -> Alias:
        """Loads a version, then makes it the canary of an alias: the version serves a fraction of the alias's users. Or
        ends the alias's canary.

        `weight` is the fraction, above 0 and at most 1; weight 0 and an empty version end the canary. `terms` are the
        limits beyond which the canary is rolled back automatically. `expected` is the stable version to which the alias
        must point now; empty accepts any. `force` allows a version that did not score better than prompting as the
        canary of a protected alias.

        Raises InvalidArgument for a weight out of range or a version of another adapter, NotFound for an unknown alias
        or version, FailedPrecondition ("not_ready", "alias_moved", "not_better", or "canary_is_stable" if the alias
        already points to the version), and Unavailable if the version cannot be loaded now.
        """
        canary = None
        if weight or version:
            canary = Canary(version, weight, terms)
            known = await self._check_move(alias, version, expected)
            self._gate.check(known, alias.partition("@")[2], force)
            await self._load_for_move(known)
        else:
            check_alias(alias)
        return await self._finish_move(await self._registry.set_canary(alias, canary, expected, author))

    async def roll_back(self, alias: str, expected: str, author: str, reason: str) -> Alias:
        """Ends the alias's canary; if the alias has no canary, moves the alias back to its previous version.

        Before moving the alias back, this engine loads the previous version if it is READY; the other engines are not
        waited for. If the load raises Unavailable, for example because the engine is down, the alias is moved anyway;
        other errors of the load are raised. `expected` is the stable version to which the alias must point now; empty
        accepts any.

        Raises NotFound for an unknown alias, and FailedPrecondition if the alias does not point to `expected`
        ("alias_moved"), or its previous version does not exist ("nothing_to_roll_back") or is not READY ("not_ready").
        """
        check_alias(alias)
        desired = await self._reconciler.refresh()
        current = next((each for each in desired.aliases if each.alias == alias), None)
        if current and not current.canary and current.previous and is_ready(current.previous, desired):
            try:
                await self._loader.ensure_loaded(desired.versions[current.previous])
            except Unavailable as error:
                log.warning("%s is rolled back to a version that is not resident here: %s", alias, error.message)
        return await self._finish_move(await self._registry.roll_back(alias, expected, author, reason))

    async def set_placement(self, name: str, placement: Placement, expected: Placement | None, author: str) -> None:
        check_name(name)
        await self._registry.set_placement(name, placement, expected, author)
        log.info("the placement of %s is now: %s", name, placement)
        await self._publish_change()

    async def pin(self, version: str, pinned: bool, author: str) -> VersionReport:
        """Pins or unpins a version, and returns a report on it. Every engine holds a pinned version and never evicts
        it.

        Raises NotFound if the version is not registered, and FailedPrecondition ("not_ready") when pinning a RETIRED or
        FAILED version.
        """
        check_version(version)
        await self._registry.set_pinned(version, pinned, author)
        return await self.get(version)

    async def retire(self, version: str, author: str, reason: str = "") -> VersionReport:
        check_version(version)
        await self._registry.retire(version, author, reason)
        log.info("%s is retired%s", version, f": {reason}" if reason else "")
        return await self.get(version)

    async def delete(self, version: str, author: str) -> None:
        """Deletes the record and the files of a RETIRED or FAILED version, once no engine holds it.

        Raises NotFound if the version is not registered, and FailedPrecondition if it is in another phase
        ("not_retired"), or if an alias points to it or an engine still holds it after `RELEASE_SECONDS` ("in_use"). If
        the store raises Unavailable ("store_unavailable"), the record has been deleted, but the files have not.
        """
        check_version(version)
        desired = await self._reconciler.refresh()
        known = _known(version, desired)
        if desired.phases[version].phase in (Phase.RETIRED, Phase.FAILED):
            await self._waiter.wait_until_released(version, self._registry.engines_holding)
        await self._registry.delete(version, author)
        await asyncio.to_thread(self._store.delete, known)
        log.info("%s is deleted", version)
        await self._reconciler.refresh()

    async def history(self, name: str, limit: int) -> "builtins.list[Change]":
        """Returns the latest changes of the adapter `name`, or of all adapters if `name` is empty; at most `limit`,
        newest first.
        """
        return await self._registry.history(name, limit)

    async def ensure_loaded(self, version: str) -> EngineState:
        """Loads the version into the engine if needed; returns the engine's state once the engine holds the version.

        If the version is neither in the engine nor READY according to the last read, Redis is read again. Then raises
        NotFound if the version is not registered, and FailedPrecondition ("not_ready") if it is not READY. Raises
        InvalidArgument if the engine rejects the version, ResourceExhausted if no slot is free in time, and Unavailable
        if the engine or the store is not ready.
        """
        check_version(version)
        desired = self._reconciler.desired
        if version not in self._engine_state.state.resident and not is_ready(version, desired):
            desired = await self._reconciler.refresh()
            _known(version, desired)
            _check_ready(version, desired)
        if version in desired.versions:
            self._placement.record_request(version)
            await self._loader.ensure_loaded(desired.versions[version])
        return self._engine_state.state

    async def report_canary_metrics(self, outcomes: Sequence[CanaryReport]) -> None:
        """Adds request outcomes that a gateway has counted, for aliases with a canary, to the counts in Redis.

        An outcome is ignored if it belongs to another revision of the alias than the current one, or to a version that
        is neither the alias's stable version nor its canary.
        """
        await self._registry.add_outcomes(outcomes)

    async def _load_for_move(self, version: AdapterVersion) -> None:
        """If the adapter is placed by demand or by a number of copies above 0, waits until all engines on which the
        version is placed have loaded it. Otherwise loads it on this engine alone.
        """
        if not self._reconciler.desired.placement_of(version.version).is_counted:
            await self._loader.ensure_loaded(version)
        await self._placement.wait_until_warm(version.version, lambda: self._reconciler.desired)

    async def _check_move(self, alias: str, version: str, expected: str) -> AdapterVersion:
        """Returns the version's record. Raises the errors that moving the alias would raise, because the load before
        the move takes seconds; the move itself checks again.
        """
        check_alias(alias)
        check_version(version)
        if expected:
            check_version(expected)
        if adapter_name(alias) != adapter_name(version):
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

    async def _finish_move(self, alias: Alias) -> Alias:
        canary = f", and for {alias.canary.weight:.0%} to {alias.canary.version}" if alias.canary else ""
        log.info("%s points to %s%s (revision %d)", alias.alias, alias.version, canary, alias.revision)
        await self._publish_change()
        return alias

    async def _publish_change(self) -> None:
        """Reads a change that was just made and publishes it to watchers. If Redis does not answer, logs that this is
        done later.
        """
        try:
            await self._reconciler.refresh()
        except Unavailable as error:
            log.warning("%s Watchers are notified when Redis is back", error.message)

    def _gate_error(self, version: AdapterVersion, alias_suffix: str, force: bool) -> FailedPrecondition | None:
        try:
            self._gate.check(version, alias_suffix, force)
        except FailedPrecondition as error:
            return error
        return None


def _known(version: str, desired: DesiredState) -> AdapterVersion:
    """Returns the record of the version; raises NotFound ("unknown_version") if it is not registered."""
    if version not in desired.versions:
        kind = "version" if is_version(version) else "version or alias"
        raise NotFound(
            f"no {kind} '{version}' is registered; see `pointsman adapters list`",
            code="unknown_version",
        )
    return desired.versions[version]


def _check_ready(version: str, desired: DesiredState) -> None:
    """Raises FailedPrecondition ("not_ready") unless the version is in phase READY."""
    record = desired.phases[version]
    if record.phase is not Phase.READY:
        why = f": {record.error}" if record.error else ""
        raise FailedPrecondition(
            f"{version} is {record.phase.value}; only a version that is ready can be loaded{why}",
            code="not_ready",
            param="version",
        )
