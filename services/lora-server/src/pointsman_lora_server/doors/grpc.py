"""The gRPC door: converts, and hands on."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc

from pointsman_lora_server.board import Board
from pointsman_lora_server.domain import Alias, EngineState, EngineStatus, VersionReport, VersionState
from pointsman_lora_server.rollout import Rollout

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["LoraServer"].full_name

_STATUS = {
    EngineStatus.STARTING: pb.ENGINE_STATUS_STARTING,
    EngineStatus.READY: pb.ENGINE_STATUS_READY,
    EngineStatus.DOWN: pb.ENGINE_STATUS_DOWN,
}
_STATE = {
    VersionState.REGISTERED: pb.ADAPTER_STATE_REGISTERED,
    VersionState.LOADING: pb.ADAPTER_STATE_LOADING,
    VersionState.WARM: pb.ADAPTER_STATE_WARM,
    VersionState.SERVING: pb.ADAPTER_STATE_SERVING,
    VersionState.FAILED: pb.ADAPTER_STATE_FAILED,
}


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What stays true of the engine, whatever it is doing."""

    name: str
    base_model: str
    url: str
    max_model_len: int


class LoraServerServicer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(self, rollout: Rollout, board: Board, identity: EngineIdentity) -> None:
        self._rollout = rollout
        self._board = board
        self._identity = identity

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.AdapterVersion:
        folder = Path(request.folder)
        return _version(await self._rollout.register(request.name, folder, request.alias, dict(request.facts)))

    async def List(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        versions, aliases = await self._rollout.list(request.name)
        return pb.ListAdaptersResponse(versions=map(_version, versions), aliases=map(_alias, aliases))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Alias:
        return _alias(await self._rollout.set_alias(request.alias, request.version, request.expected_version))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.EngineState]:
        async for state in self._board.watch():
            yield _state(self._identity, state)


def _state(identity: EngineIdentity, state: EngineState) -> pb.EngineState:
    return pb.EngineState(
        engine=identity.name,
        status=_STATUS[state.status],
        base_model=identity.base_model,
        url=identity.url,
        resident=sorted(state.resident),
        aliases=map(_alias, state.aliases),
        sequence=state.sequence,
        engine_restarts=state.restarts,
        detail=state.detail,
        max_model_len=identity.max_model_len,
    )


def _alias(alias: Alias) -> pb.Alias:
    return pb.Alias(alias=alias.alias, version=alias.version, revision=alias.revision)


def _version(report: VersionReport) -> pb.AdapterVersion:
    version = report.version
    return pb.AdapterVersion(
        version=version.version,
        name=version.name,
        sha256=version.sha256,
        base_model=version.base_model,
        rank=version.rank,
        target_modules=version.target_modules,
        bytes=version.bytes,
        created_unix_ms=version.created_unix_ms,
        state=_STATE[report.state],
        last_error=report.last_error,
        facts=version.facts,
        aliases=report.aliases,
    )
