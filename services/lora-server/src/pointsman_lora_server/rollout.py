"""What is asked of the lora-server: register an adapter, move an alias, list what there is."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument, Unavailable

from pointsman_lora_server.board import Board
from pointsman_lora_server.domain import (
    AdapterVersion,
    Alias,
    VersionReport,
    VersionState,
    check_alias,
    check_name,
    check_version,
)
from pointsman_lora_server.hot_swap import HotSwap
from pointsman_lora_server.reconcile import Reconciler
from pointsman_lora_server.registry import Registry, moved
from pointsman_lora_server.store import Store

log = logging.getLogger(__name__)


class Rollout:
    """check -> copy -> record -> load -> warm -> move the alias: what fails leaves the alias where it is."""

    def __init__(
        self, store: Store, registry: Registry, hot_swap: HotSwap, reconciler: Reconciler, board: Board
    ) -> None:
        self._store = store
        self._registry = registry
        self._hot_swap = hot_swap
        self._reconciler = reconciler
        self._board = board

    async def register(self, name: str, folder: Path, word: str, facts: Mapping[str, str]) -> VersionReport:
        """`word` is the alias's part after the "@"; empty moves none.

        Where the engine is not ready, Unavailable says so; the version is recorded all the same, and loaded when it is.
        """
        check_name(name)
        if word:
            check_alias(f"{name}@{word}")
        found = await asyncio.to_thread(self._store.add, name, folder, facts)
        self._hot_swap.check_slot(found.version)
        version = await self._registry.record(found)
        log.info("%s is registered, from %s", version.version, folder)
        await self._load(version)
        if word:
            await self._move(f"{name}@{word}", version.version, "")
        return self._report(version)

    async def set_alias(self, alias: str, version: str, expected: str) -> Alias:
        check_alias(alias)
        check_version(version)
        if expected:
            check_version(expected)
        if alias.partition("@")[0] != version.partition("@")[0]:
            raise InvalidArgument(
                f"'{alias}' is an alias of another adapter than '{version}'", code="bad_alias", param="alias"
            )
        known = await self._registry.version(version)
        desired = await self._reconciler.refresh()
        current = next((each.version for each in desired.aliases if each.alias == alias), "")
        if expected and current not in (expected, version):
            raise moved(alias, current, expected)  # before the load, which takes seconds; the move itself asks again
        await self._load(known)
        return await self._move(alias, version, expected)

    async def list(self, name: str) -> tuple[Sequence[VersionReport], Sequence[Alias]]:
        """Of all adapters where `name` is empty; the newest version first."""
        desired = await self._reconciler.refresh()
        versions = [version for version in desired.versions.values() if name in ("", version.name)]
        versions.sort(key=lambda version: (version.name, -version.created_unix_ms, version.version))
        aliases = [alias for alias in desired.aliases if name in ("", alias.alias.partition("@")[0])]
        return [self._report(version) for version in versions], aliases

    async def _load(self, version: AdapterVersion) -> None:
        try:
            await self._hot_swap.ensure_loaded(version)
        except InvalidArgument:
            await self._registry.reject(version.version)
            raise

    async def _move(self, alias: str, version: str, expected: str) -> Alias:
        now = await self._registry.move(alias, version, expected)
        log.info("%s points to %s (revision %d)", alias, version, now.revision)
        try:
            await self._reconciler.refresh()
        except Unavailable:
            log.warning("%s was moved, and Redis fell silent: those who watch are told when it is back", alias)
        return now

    def _report(self, version: AdapterVersion) -> VersionReport:
        name, state = version.version, self._board.state
        aliases = tuple(alias.alias for alias in state.aliases if alias.version == name)
        error = self._hot_swap.last_error(name)
        if name in state.resident:
            return VersionReport(version, VersionState.SERVING if aliases else VersionState.WARM, aliases, "")
        if self._hot_swap.is_loading(name):
            return VersionReport(version, VersionState.LOADING, aliases, "")
        return VersionReport(version, VersionState.FAILED if error else VersionState.REGISTERED, aliases, error)
