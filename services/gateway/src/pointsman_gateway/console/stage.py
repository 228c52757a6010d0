"""The console's read side, and the one thing that it changes: where adapters' aliases point."""

import time
from collections.abc import Callable, Sequence

from pointsman_servicekit.errors import FailedPrecondition, NotFound, PermissionDenied, Unavailable

from pointsman_gateway.console import adapters, overview
from pointsman_gateway.console.decisions import (
    PAGE_SIZE,
    WINDOW_MS,
    DecisionRow,
    RecentCache,
    RecentDecisions,
    by_path,
    to_row,
    window_of,
)
from pointsman_gateway.console.overview import CallerView, DecisionPage, DecisionView, ModelAdapters, Overview
from pointsman_gateway.domain import Caller
from pointsman_gateway.domain.adapters import Alias, AliasMove
from pointsman_gateway.pipeline.config_reload import Generation
from pointsman_gateway.request_log.store import RequestLogReader

MAX_SCANNED = 2_000
"""Entries, for one page of a tenant that has few among them."""


class Console:
    """What each caller may see: of decisions their tenant's, of paths, tasks and adapters their key's."""

    def __init__(
        self,
        current: Callable[[], Generation],
        evidence: overview.Evidence,
        journal: RequestLogReader | None,
        keys: bool,
        hosts: Sequence[str] = (),
    ) -> None:
        """`journal` is None where the gateway keeps none. `hosts` are further names by which its page is reached."""
        self.keys = keys
        self.hosts = hosts
        self._current = current
        self._evidence = evidence
        self._journal = journal
        self._recent = None if journal is None else RecentCache(journal)

    async def overview(self, caller: Caller) -> Overview:
        """How all stands now; without the journal it is what the policy knows, and what engines say."""
        how, seen = await self._look()
        generation, now = self._current(), round(time.time() * 1000)
        records = [r for r in seen.records if r.unix_ms >= now - WINDOW_MS and self._is_theirs(r, caller)]
        window = window_of(records, seen.since_unix_ms, now)
        figures = by_path(records, window)
        previews = [p for p in generation.line.router.previews() if _allowed(p.task, caller.scope.tasks)]
        paths = [path for path in generation.paths if overview.is_open(caller.scope, path)]
        away = {path.name: why for path in paths if (why := generation.engines.why_not(path))}
        versions = {path.name: generation.engines.version_of(path) for path in paths}
        known = overview.paths_of(paths, previews, self._evidence, figures, away, versions)
        return Overview(
            CallerView(self.keys, caller.tenant, caller.is_operator),
            how,
            window,
            [*known, *overview.forced_paths(records, [path.name for path in generation.paths], figures)],
            [overview.task_of(preview, records, caller.scope) for preview in previews],
            [overview.engine_of(cell) for cell in generation.engines.cells],
        )

    async def decisions(self, caller: Caller, before: str, count: int) -> DecisionPage:
        """Those before a place in the journal; the newest where it is empty. Raises Unavailable, FailedPrecondition."""
        journal, found, looked_through = self._kept(), list[DecisionRow](), 0
        while looked_through < MAX_SCANNED:
            page = await journal.before(before, "", PAGE_SIZE)
            looked_through += len(page)
            for kept in page:
                before = kept.entry_id
                record = to_row(kept)
                if record is not None and self._is_theirs(record, caller):
                    found.append(record)
                    if len(found) == count:
                        return DecisionPage(found, before)
            if len(page) < PAGE_SIZE:
                return DecisionPage(found, "")
        return DecisionPage(found, before)

    async def decision(self, caller: Caller, decision_id: str) -> DecisionView:
        """Raises NotFound, also where it is somebody else's; Unavailable, FailedPrecondition."""
        kept = await self._kept().find(decision_id)
        entry = kept.entry
        if not self._may_see(caller, entry.get("tenant", ""), entry["path"], entry["task"]):
            message = f"no decision '{decision_id[:128]}' is in the journal, or no longer"
            raise NotFound(message, code="unknown_decision", param="decision_id")
        return DecisionView(entry, kept.feedback)

    async def adapters(self, caller: Caller) -> list[ModelAdapters]:
        """A lora-server that is away is told as such."""
        return await adapters.read(self._current().engines.cells, caller.scope.adapters)

    async def move(self, caller: Caller, model: str, step: str, wanted: AliasMove) -> Alias:
        """`step` is "alias", "canary" or "rollback". Returns how the alias stands then. Raises PointsmanError."""
        if not caller.is_operator:
            raise PermissionDenied(
                "this key may not move adapters; `pointsman keys create --operator` makes one that may",
                code="not_operator",
            )
        name = wanted.alias.partition("@")[0]
        if not _allowed(name, caller.scope.adapters):
            raise PermissionDenied(f"the key is not for adapter '{name}'", code="not_in_scope", param="alias")
        return await adapters.move(self._current().engines.cells, model, step, wanted)

    async def _look(self) -> tuple[str, RecentDecisions]:
        if self._recent is None:
            return "none", RecentDecisions((), 0)
        try:
            return "read", await self._recent.look()
        except Unavailable:
            return "away", RecentDecisions((), 0)

    def _kept(self) -> RequestLogReader:
        if self._journal is None:
            raise FailedPrecondition(
                "this gateway has no request log, so it has no decisions to show; "
                "set POINTSMAN_GATEWAY_REDIS_URL (redis://HOST:PORT/0) and restart it",
                code="no_request_log",
            )
        return self._journal

    def _is_theirs(self, record: DecisionRow, caller: Caller) -> bool:
        return self._may_see(caller, record.tenant, record.path, record.task)

    def _may_see(self, caller: Caller, tenant: str, path: str, task: str) -> bool:
        if not self.keys:
            return True
        return tenant == caller.tenant and _allowed(path, caller.scope.paths) and _allowed(task, caller.scope.tasks)


def _allowed(name: str, names: frozenset[str] | None) -> bool:
    return names is None or name in names
