"""A lora-server with a scripted engine state, which loads adapters on demand."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.logs import decision_id, request_id

SERVICE = pb.DESCRIPTOR.services_by_name["LoraServer"].full_name

STARTING, READY, DOWN = pb.ENGINE_STATUS_STARTING, pb.ENGINE_STATUS_READY, pb.ENGINE_STATUS_DOWN


async def _at_once(version: str) -> None:
    """Loads a version without delay; the default of `loads`."""


class ScriptedLoraServer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(self) -> None:
        self.address = ""
        self.watchers = 0
        self.ensured: list[str] = []
        """The versions for which EnsureLoaded was called."""
        self.ids: list[tuple[str, str]] = []
        """The request id and decision id of each of these calls."""
        self.loads: Callable[[str], Awaitable[None]] = _at_once
        """Waits until the engine holds the version, or raises the error to report."""
        self.reported: list[pb.Outcomes] = []
        self.reports: Callable[[], PointsmanError | None] = lambda: None
        """Returns the error with which the lora-server answers reports of canary metrics, if any."""
        self.versions: dict[str, pb.AdapterVersion] = {}
        """The versions that the lora-server lists, by name; an alias may point to others."""
        self.refuses: PointsmanError | None = None
        """The error with which registry calls are answered, if any."""
        self.changes: list[pb.Change] = []
        """The history of changes of aliases, newest first."""
        self.facts: dict[str, str] = {}
        """Facts to put into the manifest of every version."""
        self._state = pb.EngineState(engine="local", status=pb.ENGINE_STATUS_STARTING, detail="loading weights")
        self._news = asyncio.Condition()

    async def say(
        self,
        status: "pb.EngineStatus",
        *,
        url: str = "",
        base_model: str = "tiny",
        resident: Sequence[str] = (),
        loadable: Sequence[str] = (),
        aliases: Mapping[str, "str | pb.Alias"] = {},
        detail: str = "",
        training_seconds: Mapping[str, float] = {},
    ) -> None:
        """Publishes a state of the engine. `aliases` maps each alias to a version, or to a complete message."""
        await self._say(
            pb.EngineState(
                engine="local",
                status=status,
                base_model=base_model,
                url=url,
                resident=resident,
                loadable=loadable,
                aliases=[
                    pb.Alias(alias=alias, version=to) if isinstance(to, str) else to for alias, to in aliases.items()
                ],
                detail=detail,
                training_seconds=training_seconds,
            )
        )

    async def evicts(self, version: str) -> None:
        """Publishes that the engine has evicted a version; the engine itself is not changed."""
        await self._hold([v for v in self._state.resident if v != version], [*self._state.loadable, version])

    async def EnsureLoaded(self, request: pb.EnsureLoadedRequest, context: Any) -> pb.EngineState:
        version = request.version
        self.ensured.append(version)
        self.ids.append((request_id.get(), decision_id.get()))
        await self.loads(version)
        state = self._state
        if version not in state.resident:
            await self._hold([*state.resident, version], [v for v in state.loadable if v != version])
        return self._state

    async def Get(self, request: pb.GetAdapterRequest, context: Any) -> pb.AdapterVersion:
        return pb.AdapterVersion(version=request.version, facts=self.facts)

    async def ReportCanaryMetrics(
        self, request: pb.ReportCanaryMetricsRequest, context: Any
    ) -> pb.ReportCanaryMetricsResponse:
        error = self.reports()
        if error is not None:
            raise error
        self.reported.extend(request.outcomes)
        return pb.ReportCanaryMetricsResponse()

    async def List(self, request: pb.ListAdaptersRequest, context: Any) -> pb.ListAdaptersResponse:
        if self.refuses is not None:
            raise self.refuses
        return pb.ListAdaptersResponse(
            versions=map(self._standing, self.versions.values()), aliases=self._state.aliases
        )

    async def History(self, request: pb.HistoryRequest, context: Any) -> pb.HistoryResponse:
        return pb.HistoryResponse(changes=self.changes[: request.limit or 100])

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.Alias:
        alias = self._to_change(request.alias, request.expected_version)
        before = alias.version
        if request.version != before:
            alias.previous, alias.version = before, request.version
        alias.canary_version, alias.canary_weight = "", 0.0
        return await self._changed(alias, pb.Change(kind="alias", before=before, author=request.author))

    async def SetCanary(self, request: pb.SetCanaryRequest, context: Any) -> pb.Alias:
        alias = self._to_change(request.alias, request.expected_version)
        before = alias.canary_version
        alias.canary_version, alias.canary_weight = (request.version, request.weight) if request.weight else ("", 0.0)
        return await self._changed(alias, pb.Change(kind="canary", before=before, author=request.author))

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> pb.Alias:
        alias = self._to_change(request.alias, request.expected_version)
        before = alias.canary_version or alias.version
        if alias.canary_version:
            alias.canary_version, alias.canary_weight = "", 0.0
        elif alias.previous:
            alias.version, alias.previous = alias.previous, ""
        else:
            raise FailedPrecondition(f"{alias.alias} was never moved", code="nothing_to_roll_back")
        change = pb.Change(kind="rollback", before=before, author=request.author, reason=request.reason)
        return await self._changed(alias, change)

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.EngineState]:
        self.watchers += 1
        try:
            while True:
                last_sent = self._state
                yield last_sent
                async with self._news:
                    await self._news.wait_for(partial(lambda seen: self._state.sequence > seen, last_sent.sequence))
        finally:
            self.watchers -= 1

    def _to_change(self, name: str, expected: str) -> pb.Alias:
        """Returns a copy of an alias, to be changed and stored."""
        if self.refuses is not None:
            raise self.refuses
        copy = pb.Alias()
        for alias in self._state.aliases:
            if alias.alias == name:
                copy.CopyFrom(alias)
        if not copy.alias:
            raise NotFound(f"there is no alias {name}", code="unknown_alias")
        if expected and copy.version != expected:
            raise FailedPrecondition(f"{name} points to {copy.version}, not to {expected}", code="alias_moved")
        return copy

    async def _changed(self, alias: pb.Alias, change: pb.Change) -> pb.Alias:
        """Stores an alias, loads its version, and publishes the state."""
        alias.revision += 1
        change.subject, change.at_unix_ms = alias.alias, round(time.time() * 1000)
        change.after = alias.canary_version if change.kind == "canary" else alias.version
        self.changes.insert(0, change)
        state = pb.EngineState()
        state.CopyFrom(self._state)
        others = [other for other in state.aliases if other.alias != alias.alias]
        del state.aliases[:]
        state.aliases.extend([alias, *others])
        state.resident.extend({alias.version, alias.canary_version} - {*state.resident, ""})
        await self._say(state)
        return alias

    def _standing(self, version: pb.AdapterVersion) -> pb.AdapterVersion:
        """Returns a version with its current aliases, and a matching state unless a test has set one."""
        adapter_version = pb.AdapterVersion()
        adapter_version.CopyFrom(version)
        adapter_version.aliases.extend(
            a.alias for a in self._state.aliases if adapter_version.version in (a.version, a.canary_version)
        )
        if not adapter_version.state:
            resident = pb.ADAPTER_STATE_SERVING if adapter_version.aliases else pb.ADAPTER_STATE_WARM
            adapter_version.state = (
                resident if adapter_version.version in self._state.resident else pb.ADAPTER_STATE_READY
            )
        return adapter_version

    async def _hold(self, resident: Sequence[str], loadable: Sequence[str]) -> None:
        state = pb.EngineState()
        state.CopyFrom(self._state)
        del state.resident[:], state.loadable[:]
        state.resident.extend(resident)
        state.loadable.extend(loadable)
        await self._say(state)

    async def _say(self, state: pb.EngineState) -> None:
        async with self._news:
            state.sequence = self._state.sequence + 1
            self._state = state
            self._news.notify_all()


@asynccontextmanager
async def running_lora_server(listen: str = "127.0.0.1:0") -> AsyncIterator[ScriptedLoraServer]:
    scripted = ScriptedLoraServer()

    def register(server: Any) -> None:
        lora_server_pb2_grpc.add_LoraServerServicer_to_server(scripted, server)

    async with serving(listen, [SERVICE], register, grace=0) as server:
        scripted.address = server.address
        yield scripted
