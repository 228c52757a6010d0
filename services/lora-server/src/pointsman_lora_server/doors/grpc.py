"""The gRPC door of adapters: checks, converts, and hands on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc

from pointsman_lora_server.board import EngineStateStore
from pointsman_lora_server.doors import grpc_requests as asked
from pointsman_lora_server.doors.grpc_answers import (
    EngineIdentity,
    to_alias,
    to_change,
    to_placement,
    to_state,
    to_version,
)
from pointsman_lora_server.rollout import AdapterService

__all__ = ["SERVICE", "EngineIdentity", "LoraServerServicer"]

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["LoraServer"].full_name


class LoraServerServicer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(self, rollout: AdapterService, board: EngineStateStore, identity: EngineIdentity) -> None:
        self._rollout = rollout
        self._board = board
        self._identity = identity

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.AdapterVersion:
        asked.check_register(request)
        return to_version(
            await self._rollout.register(
                request.name,
                Path(request.folder),
                request.alias,
                dict(request.facts),
                request.parent,
                request.author,
                request.force,
            )
        )

    async def List(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        asked.check_filter(request.name)
        found = await self._rollout.list(request.name)
        return pb.ListAdaptersResponse(
            versions=map(to_version, found.versions),
            aliases=[to_alias(alias, await self._rollout.canary_requests(alias)) for alias in found.aliases],
            placements=[to_placement(name, placement) for name, placement in found.placements.items()],
        )

    async def Get(self, request: pb.GetAdapterRequest, context: Context) -> pb.AdapterVersion:
        asked.check_version_or_alias(request.version)
        return to_version(await self._rollout.get(request.version))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Alias:
        asked.check_author(request.author)
        return to_alias(
            await self._rollout.set_alias(
                request.alias, request.version, request.expected_version, request.author, request.force
            )
        )

    async def SetCanary(self, request: pb.SetCanaryRequest, context: Context) -> pb.Alias:
        asked.check_canary(request)
        terms = asked.from_terms(request.terms)
        return to_alias(
            await self._rollout.set_canary(
                request.alias, request.version, request.weight, terms, request.author, request.expected_version
            )
        )

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.Alias:
        asked.check_rollback(request)
        return to_alias(
            await self._rollout.rollback(request.alias, request.expected_version, request.author, request.reason)
        )

    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.AdapterVersion:
        asked.check_author(request.author)
        return to_version(await self._rollout.pin(request.version, request.pinned, request.author))

    async def Place(self, request: pb.PlaceRequest, context: Context) -> pb.Placement:
        asked.check_author(request.author)
        placement = asked.from_placement(request.placement)
        expected = asked.from_placement(request.expected) if request.HasField("expected") else None
        await self._rollout.place(request.placement.name, placement, expected, request.author)
        return to_placement(request.placement.name, placement)

    async def Retire(self, request: pb.RetireRequest, context: Context) -> pb.AdapterVersion:
        asked.check_author(request.author)
        return to_version(await self._rollout.retire(request.version, request.author, request.reason))

    async def Delete(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        asked.check_author(request.author)
        await self._rollout.delete(request.version, request.author)
        return pb.DeleteAdapterResponse()

    async def History(self, request: pb.HistoryRequest, context: Context) -> pb.HistoryResponse:
        asked.check_filter(request.name)
        changes = await self._rollout.history(request.name, asked.history_limit(request.limit))
        return pb.HistoryResponse(changes=map(to_change, changes))

    async def Ensure(self, request: pb.EnsureRequest, context: Context) -> pb.EngineState:
        return to_state(self._identity, await self._rollout.ensure(request.version))

    async def Report(self, request: pb.ReportRequest, context: Context) -> pb.ReportResponse:
        await self._rollout.report(asked.from_outcomes(request.outcomes))
        return pb.ReportResponse()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.EngineState]:
        async for state in self._board.watch():
            yield to_state(self._identity, state)
