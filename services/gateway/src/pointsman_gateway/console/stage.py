"""The service behind the console's HTTP routes: reads decisions and states, and moves adapter aliases."""

import asyncio
import json
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
    unix_ms_of,
    window_of,
)
from pointsman_gateway.console.exported import CLOCK_SKEW_MS, CURSOR, ExportedDecisions, from_cursor, to_cursor
from pointsman_gateway.console.overview import (
    CallerView,
    DecisionPage,
    DecisionView,
    EngineAdapters,
    ModelAdapters,
    Overview,
)
from pointsman_gateway.console.search import EVERYTHING, DecisionQuery
from pointsman_gateway.console.spending import Spending, read_spending
from pointsman_gateway.domain import Caller
from pointsman_gateway.domain.path import AdapterListing, Alias, AliasMove
from pointsman_gateway.domain.request import AllowedNames
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient
from pointsman_gateway.engines.engine_state import EngineState
from pointsman_gateway.pipeline.pipeline import ConfigSnapshot
from pointsman_gateway.request_log.store import LogEntry, RequestLogReader
from pointsman_gateway.routing.path_state import Evidence

Action = Callable[[AdapterAdminClient, AliasMove], Awaitable[Alias]]

ACTIONS: Mapping[str, Action] = {
    "alias": AdapterAdminClient.set_alias,
    "canary": AdapterAdminClient.set_canary,
    "rollback": AdapterAdminClient.roll_back,
}

MAX_SCANNED = 2_000
"""Maximum number of log entries that are read from Redis for one page, rounded up to whole `PAGE_SIZE`s. The limit is
needed because the caller may be allowed to see only a few of the entries."""
NO_TENANT = "_none"
"""The folder name for records without a tenant in the paths of exported files."""
MAX_EXPORTED_SECONDS = 5.0
"""Seconds after which the search for one page of exported decisions ends with the decisions found so far; the next page
continues there."""


async def read_adapters(states: Sequence[EngineState], allowed: AllowedNames) -> list[ModelAdapters]:
    """Returns the adapter versions, aliases and changes of each base model whose engines have lora-servers.

    `allowed` are the names of the adapters to list; None lists all. Does not raise if a lora-server cannot be read:
    that engine's `problem` in the result says why.
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
    """Returns the adapters of a model, with the states of versions on each engine.

    All lora-servers of a model share one registry, so the rest is from the first one that could be read.
    """
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
    """Changes the version to which an adapter's alias points, or its canary, by a command to a lora-server of `model`;
    returns the changed alias.

    `action` is "alias", "canary" or "rollback" (a key of `ACTIONS`). The lora-servers of the model are tried in order
    until one answers. Raises NotFound ("unknown_model") if the model has no lora-server, Unavailable
    ("lora_server_unavailable") if no lora-server answers, and the PointsmanError with which a lora-server answers.
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
    """Collects the data that the web console shows to a caller, and moves adapter aliases for it.

    If the gateway requires API keys, a caller sees only its own tenant's decisions, and only the paths, tasks and
    adapters that its key may use; all engines are shown. Without Redis there are no decisions.
    """

    def __init__(
        self,
        current: Callable[[], ConfigSnapshot],
        evidence: Evidence,
        log: RequestLogReader | None,
        keys: bool,
        hosts: Sequence[str] = (),
        exported: ExportedDecisions | None = None,
    ) -> None:
        """Takes `current`, which returns the active snapshot, and the request log, which is None without Redis.
        `exported` has the decisions that Redis has no longer, if they are exported.

        `evidence` has the statistics of paths. `keys` says whether requests need a key; if not, the page is served only
        for localhost, IP addresses and the host names in `hosts`.
        """
        self.keys = keys
        self.hosts = hosts
        self._current = current
        self._evidence = evidence
        self._log = log
        self._exported = exported
        self._recent = None if log is None else RecentCache(log)

    async def overview(self, caller: Caller) -> Overview:
        """Returns the states of paths, tasks and engines, with statistics of the requests of the last 15 minutes.

        Without a request log, or if Redis does not answer, there are no statistics, and `request_log` of the result is
        "none" or "unavailable".
        """
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
        examples = snapshot.examples if not self.keys or caller.is_operator or caller.is_admin else {}
        named = overview.to_named_views(rows, [path.name for path in snapshot.paths], figures)
        return Overview(
            CallerView(self.keys, caller.tenant, caller.is_operator, caller.is_admin),
            state,
            window,
            [*configured, *named],
            [overview.to_task_view(p, rows, caller.scope, examples.get(p.task, "")) for p in previews],
            [overview.to_engine_view(state) for state in snapshot.engines.states],
        )

    async def decisions(
        self, caller: Caller, before: str, count: int, query: DecisionQuery = EVERYTHING
    ) -> DecisionPage:
        """Returns a page of at most `count` decisions that fit the query, newest first: those in Redis, then the
        exported ones.

        `before` is `next` of the previous page, or "" to begin at the newest decision. A page with fewer decisions is
        not always the last, since a call reads at most `MAX_SCANNED` entries: it is the last if its `next` is empty.
        Raises Unavailable if Redis does not answer, FailedPrecondition ("no_request_log") if there is no request log,
        and the errors of `ExportedDecisions`.
        """
        if before.startswith(CURSOR):
            return await self._exported_decisions(caller, before, count, query)
        log, found, scanned = self._required_log(), list[DecisionRow](), 0
        while scanned < MAX_SCANNED:
            page = await log.before(before, "", PAGE_SIZE)
            scanned += len(page)
            for entry in page:
                before = entry.entry_id
                row = to_row(entry)
                if row is not None and self._is_visible(row, caller) and query.matches(row, entry):
                    found.append(row)
                    if len(found) == count:
                        return DecisionPage(found, before, unix_ms_of(before))
            if len(page) < PAGE_SIZE:
                return self._last_page_of_redis(found, before)
        return DecisionPage(found, before, unix_ms_of(before))

    def _last_page_of_redis(self, found: list[DecisionRow], oldest: str) -> DecisionPage:
        if self._exported is None:
            return DecisionPage(found, "", 0)
        since = unix_ms_of(oldest) if oldest else round(time.time() * 1000)
        return DecisionPage(found, to_cursor((since + CLOCK_SKEW_MS, "")), since)

    async def _exported_decisions(self, caller: Caller, before: str, count: int, query: DecisionQuery) -> DecisionPage:
        """Returns a page of exported decisions. Leaves out decisions that Redis still has, because earlier pages list
        them.
        """
        log, exported, found = self._required_log(), self._required_exported(), list[DecisionRow]()
        at, until = from_cursor(before), 0.0
        async with exported.older(at, self._tenant_of(caller), query) as batches:
            async for batch in batches:
                until = until or time.monotonic() + MAX_EXPORTED_SECONDS
                held = await log.held([name for _, name, _ in batch["found"]])
                for unix_ms, name, text in batch["found"]:
                    at, entry = (unix_ms, name), LogEntry("", text)
                    row = to_row(entry)
                    if row is None or name in held or not self._is_visible(row, caller):
                        continue
                    found.append(row)
                    if len(found) == count:
                        return DecisionPage(found, to_cursor(at), unix_ms)
                at = (batch["at"][0], batch["at"][1])
                if time.monotonic() > until:
                    return DecisionPage(found, to_cursor(at), at[0])
        return DecisionPage(found, "", 0)

    async def decision(self, caller: Caller, decision_id: str) -> DecisionView:
        """Returns one decision's log entry and the feedback on its answer.

        Raises NotFound ("unknown_decision") if the decision does not exist or the caller may not see it, Unavailable if
        Redis does not answer, FailedPrecondition if there is no request log or the entry cannot be read, and the errors
        of `ExportedDecisions`.
        """
        try:
            recorded = await self._required_log().find(decision_id)
            view = DecisionView(recorded.entry, recorded.feedback)
        except NotFound:
            found = self._exported and await self._exported.find(decision_id, self._tenant_of(caller))
            if not found:
                raise
            view = DecisionView(json.loads(found["entry"]), found["feedback"])
        if not self._may_see(caller, view.entry["tenant"], view.entry["path"], view.entry["task"]):
            message = f"the request log has no decision '{decision_id[:128]}', or no longer"
            raise NotFound(message, code="unknown_decision", param="decision_id")
        return view

    async def spending(self, caller: Caller, days: int) -> Spending:
        """Returns the spending of the last `days` UTC days by day, tenant, key, path and model, as far as the caller
        may see it.

        Raises Unavailable if Redis does not answer, and FailedPrecondition ("no_request_log") if there is no request
        log.
        """
        return await read_spending(self._required_log(), caller, days, keys=self.keys)

    async def adapters(self, caller: Caller) -> list[ModelAdapters]:
        """Returns, for each base model, the adapters that the caller's key may use, and why a lora-server cannot be
        read, if so.
        """
        return await read_adapters(self._current().engines.states, caller.scope.adapters)

    async def move(self, caller: Caller, model: str, action: str, move: AliasMove) -> Alias:
        """Changes the version to which an adapter's alias points, or its canary, for a caller who is an operator;
        returns the changed alias.

        `action` is "alias", "canary" or "rollback". Raises PermissionDenied ("not_operator" or "not_in_scope") if the
        caller is no operator or its key may not use the adapter, and the errors of `move_alias`.
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

    def _required_exported(self) -> ExportedDecisions:
        if self._exported is None:
            raise FailedPrecondition(
                "this gateway does not read exported decisions; set POINTSMAN_GATEWAY_CONSOLE_RECORDS to the folder or "
                "URL of an exporter and restart it",
                code="no_records",
            )
        return self._exported

    def _tenant_of(self, caller: Caller) -> str:
        """Returns the tenant whose exported records the caller may see; empty for all."""
        return (caller.tenant or NO_TENANT) if self.keys else ""

    def _is_visible(self, row: DecisionRow, caller: Caller) -> bool:
        return self._may_see(caller, row.tenant, row.path, row.task)

    def _may_see(self, caller: Caller, tenant: str, path: str, task: str) -> bool:
        if not self.keys:
            return True
        in_scope = _is_allowed(path, caller.scope.paths) and _is_allowed(task, caller.scope.tasks)
        return tenant == caller.tenant and in_scope


def _is_allowed(name: str, names: frozenset[str] | None) -> bool:
    return names is None or name in names
