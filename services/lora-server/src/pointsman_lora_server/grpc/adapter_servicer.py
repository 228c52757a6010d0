"""The gRPC service of adapters: validates and converts requests, and delegates to `AdapterService`."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.service_tokens import author_of, method_roles

from pointsman_lora_server.adapters.service import AdapterService
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.grpc import messages
from pointsman_lora_server.grpc.messages import to_alias, to_change, to_placement, to_version

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["LoraServer"].full_name

METHOD_ROLES = method_roles(
    SERVICE,
    read=["List", "Get", "History", "Watch"],
    write=["EnsureLoaded", "ReportCanaryMetrics"],
    admin=["Register", "SetAlias", "SetCanary", "Rollback", "Pin", "SetPlacement", "Retire", "Delete"],
)
"""The role that a peer with a token needs for each method."""


class LoraServerServicer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(
        self, service: AdapterService, engine_state: EngineStateStore, identity: messages.EngineIdentity
    ) -> None:
        self._service = service
        self._engine_state = engine_state
        self._states = messages.StateMessages(identity)

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.AdapterVersion:
        messages.check_register(request)
        return to_version(
            await self._service.register(
                request.name,
                request.folder,
                request.alias,
                dict(request.facts),
                request.parent,
                author_of(request.author),
                request.force,
            )
        )

    async def List(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        messages.check_filter(request.name)
        listing = await self._service.list(request.name)
        return pb.ListAdaptersResponse(
            versions=map(to_version, listing.versions),
            aliases=[to_alias(alias, await self._service.count_canary_requests(alias)) for alias in listing.aliases],
            placements=[to_placement(name, placement) for name, placement in listing.placements.items()],
        )

    async def Get(self, request: pb.GetAdapterRequest, context: Context) -> pb.AdapterVersion:
        messages.check_version_or_alias(request.version)
        return to_version(await self._service.get(request.version))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Alias:
        messages.check_author(request.author)
        return to_alias(
            await self._service.set_alias(
                request.alias, request.version, request.expected_version, author_of(request.author), request.force
            )
        )

    async def SetCanary(self, request: pb.SetCanaryRequest, context: Context) -> pb.Alias:
        messages.check_canary(request)
        terms = messages.from_terms(request.terms)
        return to_alias(
            await self._service.set_canary(
                request.alias,
                request.version,
                request.weight,
                terms,
                author_of(request.author),
                request.expected_version,
            )
        )

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.Alias:
        messages.check_rollback(request)
        return to_alias(
            await self._service.roll_back(
                request.alias, request.expected_version, author_of(request.author), request.reason
            )
        )

    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.AdapterVersion:
        messages.check_author(request.author)
        return to_version(await self._service.pin(request.version, request.pinned, author_of(request.author)))

    async def SetPlacement(self, request: pb.SetPlacementRequest, context: Context) -> pb.Placement:
        messages.check_author(request.author)
        placement = messages.from_placement(request.placement)
        expected = messages.from_placement(request.expected) if request.HasField("expected") else None
        await self._service.set_placement(request.placement.name, placement, expected, author_of(request.author))
        return to_placement(request.placement.name, placement)

    async def Retire(self, request: pb.RetireRequest, context: Context) -> pb.AdapterVersion:
        messages.check_author(request.author)
        return to_version(await self._service.retire(request.version, author_of(request.author), request.reason))

    async def Delete(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        messages.check_author(request.author)
        await self._service.delete(request.version, author_of(request.author))
        return pb.DeleteAdapterResponse()

    async def History(self, request: pb.HistoryRequest, context: Context) -> pb.HistoryResponse:
        messages.check_filter(request.name)
        changes = await self._service.history(request.name, messages.history_limit(request.limit))
        return pb.HistoryResponse(changes=map(to_change, changes))

    async def EnsureLoaded(self, request: pb.EnsureLoadedRequest, context: Context) -> pb.EngineState:
        state = await self._service.ensure_loaded(request.version)
        return self._states.get(state, frozenset({request.version}) if request.changes else None)

    async def ReportCanaryMetrics(
        self, request: pb.ReportCanaryMetricsRequest, context: Context
    ) -> pb.ReportCanaryMetricsResponse:
        await self._service.report_canary_metrics(messages.from_outcomes(request.outcomes))
        return pb.ReportCanaryMetricsResponse()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.EngineState]:
        async for state, changed in self._engine_state.watch_changes():
            yield self._states.get(state, changed if request.changes else None)
