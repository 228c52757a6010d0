"""The service behind the console's HTTP routes: reads decisions and states, and moves adapter aliases."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pointsman_servicekit.errors import FailedPrecondition, NotFound, PermissionDenied, PointsmanError, Unavailable

from pointsman_gateway.console import overview
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
from pointsman_gateway.console.overview import (
    CallerView,
    DecisionPage,
    DecisionView,
    EngineAdapters,
    ModelAdapters,
    Overview,
)
from pointsman_gateway.domain import Caller
from pointsman_gateway.domain.path import AdapterListing, Alias, AliasMove
from pointsman_gateway.domain.request import AllowedNames
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient
from pointsman_gateway.engines.engine_state import EngineState
from pointsman_gateway.pipeline.pipeline import ConfigSnapshot
from pointsman_gateway.request_log.store import RequestLogReader
from pointsman_gateway.routing.path_state import Evidence

Action = Callable[[AdapterAdminClient, AliasMove], Awaitable[Alias]]

ACTIONS: Mapping[str, Action] = {
    "alias": AdapterAdminClient.set_alias,
    "canary": AdapterAdminClient.set_canary,
    "rollback": AdapterAdminClient.roll_back,
}

MAX_SCANNED = 2_000
"""Entries that are read for one page, if few of them are the caller's."""


async def read_adapters(states: Sequence[EngineState], allowed: AllowedNames) -> list[ModelAdapters]:
    """Lists the adapters of each base model that has engines with a lora-server; one that cannot be read is listed
    with its problem. Only adapters whose names are in `allowed` are listed; None allows all.
    """
    clients = [(state, state.adapter_admin) for state in states if state.adapter_admin is not None]
    listings = await asyncio.gather(*[_listing(client) for _, client in clients])
    pairs = [(state, listing) for (state, _), listing in zip(clients, listings, strict=True)]
    models = dict.fromkeys(state.engine.model for state, _ in pairs)
    return [
        _model(model, [(state, listing) for state, listing in pairs if state.engine.model == model], allowed)
        for model in models
    ]


async def _listing(admin: AdapterAdminClient) -> AdapterListing | PointsmanError:
    try:
        return await admin.list_adapters()
    except PointsmanError as error:
        return error


def _model(
    model: str, listings: Sequence[tuple[EngineState, AdapterListing | PointsmanError]], allowed: AllowedNames
) -> ModelAdapters:
    """Returns the adapters of a model, from the first lora-server that was read, since all share one registry."""
    read = [listing for _, listing in listings if isinstance(listing, AdapterListing)]
    first = read[0] if read else AdapterListing((), (), ())
    return ModelAdapters(
        model,
        [_engine(state.engine.name, listing, allowed) for state, listing in listings],
        [version for version in first.versions if _is_adapter_allowed(version.version, allowed)],
        [alias for alias in first.aliases if _is_adapter_allowed(alias.alias, allowed)],
        [change for change in first.changes if _is_adapter_allowed(change.subject, allowed)],
    )


def _engine(name: str, listing: AdapterListing | PointsmanError, allowed: AllowedNames) -> EngineAdapters:
    if isinstance(listing, PointsmanError):
        return EngineAdapters(name, listing.message, {})
    states = {one.version: one.state for one in listing.versions if _is_adapter_allowed(one.version, allowed)}
    return EngineAdapters(name, "", states)


def _is_adapter_allowed(name: str, allowed: AllowedNames) -> bool:
    return allowed is None or name.partition("@")[0] in allowed


async def move_alias(states: Sequence[EngineState], model: str, action: str, wanted: AliasMove) -> Alias:
    """Moves an alias by the first lora-server of `model` that answers; `action` is a key of `ACTIONS`.

    Raises NotFound ("unknown_model") without such a server, Unavailable ("lora_server_unavailable") if none answers, or
    the PointsmanError with which it answers.
    """
    clients = [(state.engine.model, state.adapter_admin) for state in states if state.adapter_admin is not None]
    admins = [client for of_model, client in clients if of_model == model]
    if not admins:
        known = sorted({of_model for of_model, _ in clients})
        raise NotFound(
            f"no lora-server has adapters of '{model[:100]}'; known: {', '.join(known) or 'none'}",
            code="unknown_model",
            param="model",
        )
    *first, last = admins
    for admin in first:
        try:
            return await ACTIONS[action](admin, wanted)
        except Unavailable as error:
            if error.code != "lora_server_unavailable":  # it did answer, and another one would answer the same
                raise
    return await ACTIONS[action](last, wanted)


class Console:
    """Reads what the console shows: decisions of the caller's tenant (of all if keys are not required), and paths,
    tasks and adapters that its key's scope allows. Without Redis there are no decisions.
    """

    def __init__(
        self,
        current: Callable[[], ConfigSnapshot],
        evidence: Evidence,
        log: RequestLogReader | None,
        keys: bool,
        hosts: Sequence[str] = (),
    ) -> None:
        """Takes the active configuration (`current`), the request log (None without Redis), whether `keys` are
        required, and the host names that the page accepts without them, besides localhost and IP addresses.
        """
        self.keys = keys
        self.hosts = hosts
        self._current = current
        self._evidence = evidence
        self._log = log
        self._recent = None if log is None else RecentCache(log)

    async def overview(self, caller: Caller) -> Overview:
        """Returns the state of paths, tasks and engines, with figures of requests if the request log can be read."""
        state, recent = await self._read_recent()
        snapshot, now = self._current(), round(time.time() * 1000)
        rows = [r for r in recent.rows if r.unix_ms >= now - WINDOW_MS and self._is_visible(r, caller)]
        window = window_of(rows, recent.since_unix_ms, now)
        figures = by_path(rows, window)
        previews = [p for p in snapshot.stages.router.previews() if _is_allowed(p.task, caller.scope.tasks)]
        paths = [path for path in snapshot.paths if caller.scope.allows(path)]
        unavailable = {path.name: reason for path in paths if (reason := snapshot.engines.why_not(path))}
        versions = {path.name: snapshot.engines.version_of(path) for path in paths}
        configured = overview.to_path_views(paths, previews, self._evidence, figures, unavailable, versions)
        named = overview.to_named_views(rows, [path.name for path in snapshot.paths], figures)
        return Overview(
            CallerView(self.keys, caller.tenant, caller.is_operator, caller.is_admin),
            state,
            window,
            [*configured, *named],
            [overview.to_task_view(preview, rows, caller.scope) for preview in previews],
            [overview.to_engine_view(state) for state in snapshot.engines.states],
        )

    async def decisions(self, caller: Caller, before: str, count: int) -> DecisionPage:
        """Returns at most `count` decisions before the entry id `before`, newest first; "" starts at the newest.

        Reads at most about `MAX_SCANNED` entries. Raises Unavailable, or FailedPrecondition without a request log.
        """
        log, found, scanned = self._required_log(), list[DecisionRow](), 0
        while scanned < MAX_SCANNED:
            page = await log.before(before, "", PAGE_SIZE)
            scanned += len(page)
            for entry in page:
                before = entry.entry_id
                row = to_row(entry)
                if row is not None and self._is_visible(row, caller):
                    found.append(row)
                    if len(found) == count:
                        return DecisionPage(found, before)
            if len(page) < PAGE_SIZE:
                return DecisionPage(found, "")
        return DecisionPage(found, before)

    async def decision(self, caller: Caller, decision_id: str) -> DecisionView:
        """Returns one decision with its feedback. Raises NotFound (also for one that the caller may not see),
        Unavailable, or FailedPrecondition if there is no request log or its entry is unreadable.
        """
        recorded = await self._required_log().find(decision_id)
        entry = recorded.entry
        if not self._may_see(caller, entry["tenant"], entry["path"], entry["task"]):
            message = f"the request log has no decision '{decision_id[:128]}', or no longer"
            raise NotFound(message, code="unknown_decision", param="decision_id")
        return DecisionView(entry, recorded.feedback)

    async def adapters(self, caller: Caller) -> list[ModelAdapters]:
        """Lists the adapters of each model; a lora-server that cannot be read is listed with its problem."""
        return await read_adapters(self._current().engines.states, caller.scope.adapters)

    async def move(self, caller: Caller, model: str, action: str, move: AliasMove) -> Alias:
        """Moves an alias; `action` is "alias", "canary" or "rollback". Returns the alias as it is then.

        Raises PermissionDenied if the key is not an operator's or not for the adapter, and what `move_alias` raises.
        """
        if not caller.is_operator:
            raise PermissionDenied(
                "this key may not move adapters; `pointsman keys create --operator` makes one that may",
                code="not_operator",
            )
        name = move.alias.partition("@")[0]
        if not _is_allowed(name, caller.scope.adapters):
            raise PermissionDenied(f"the key is not for adapter '{name}'", code="not_in_scope", param="alias")
        return await move_alias(self._current().engines.states, model, action, move)

    async def _read_recent(self) -> tuple[str, RecentDecisions]:
        if self._recent is None:
            return "none", RecentDecisions((), 0)
        try:
            return "available", await self._recent.read()
        except Unavailable:
            return "unavailable", RecentDecisions((), 0)

    def _required_log(self) -> RequestLogReader:
        if self._log is None:
            raise FailedPrecondition(
                "this gateway has no request log, so it has no decisions to show; "
                "set POINTSMAN_GATEWAY_REDIS_URL (redis://HOST:PORT/0) and restart it",
                code="no_request_log",
            )
        return self._log

    def _is_visible(self, row: DecisionRow, caller: Caller) -> bool:
        return self._may_see(caller, row.tenant, row.path, row.task)

    def _may_see(self, caller: Caller, tenant: str, path: str, task: str) -> bool:
        if not self.keys:
            return True
        in_scope = _is_allowed(path, caller.scope.paths) and _is_allowed(task, caller.scope.tasks)
        return tenant == caller.tenant and in_scope


def _is_allowed(name: str, names: frozenset[str] | None) -> bool:
    return names is None or name in names
