"""The registry of adapters behind a lora-server, over gRPC: what it says of them, and how aliases are moved."""

from collections.abc import Awaitable
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.grpc_errors import from_rpc_error

from pointsman_gateway.domain import Alias
from pointsman_gateway.domain.adapters import AdapterChange, AdapterListing, AdapterVersion, AliasMove

SECONDS = 5.0
"""For what is answered from Redis."""
LOAD_SECONDS = 180.0
"""For what waits until an engine has loaded a version."""
CHANGES = 30

_STATE = {number: name.removeprefix("ADAPTER_STATE_").lower() for name, number in pb.AdapterState.items()}


class AdapterDesk:
    """Each method raises PointsmanError: with the lora-server's own words where it refuses, Unavailable where it is
    away."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = lora_server_pb2_grpc.LoraServerStub(channel)

    async def read(self) -> AdapterListing:
        listed = await _told(self._stub.List(pb.ListAdaptersRequest(), timeout=SECONDS))
        history = await _told(self._stub.History(pb.HistoryRequest(limit=CHANGES), timeout=SECONDS))
        return AdapterListing(
            tuple(map(_version, listed.versions)),
            tuple(map(to_alias, listed.aliases)),
            tuple(map(_change, history.changes)),
        )

    async def point(self, move: AliasMove) -> Alias:
        """Once an engine holds the version; ends a canary of the alias."""
        request = pb.SetAliasRequest(
            alias=move.alias,
            version=move.version,
            expected_version=move.expected_version,
            author=move.author,
            force=move.force,
        )
        return to_alias(await _told(self._stub.SetAlias(request, timeout=LOAD_SECONDS)))

    async def try_out(self, move: AliasMove) -> Alias:
        """Sets the alias's canary, once an engine holds the version; a weight of 0 ends it."""
        request = pb.SetCanaryRequest(
            alias=move.alias,
            version=move.version,
            weight=move.weight,
            author=move.author,
            expected_version=move.expected_version,
        )
        return to_alias(await _told(self._stub.SetCanary(request, timeout=LOAD_SECONDS)))

    async def roll_back(self, move: AliasMove) -> Alias:
        """Ends the alias's canary; without one, points it back to where it pointed before."""
        request = pb.RollbackRequest(
            alias=move.alias, expected_version=move.expected_version, author=move.author, reason=move.reason
        )
        return to_alias(await _told(self._stub.Rollback(request, timeout=LOAD_SECONDS)))


async def _told(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "lora_server") from error


def to_alias(told: pb.Alias) -> Alias:
    return Alias(told.alias, told.version, told.revision, told.canary_version, told.canary_weight, told.previous)


def _version(told: pb.AdapterVersion) -> AdapterVersion:
    return AdapterVersion(
        version=told.version,
        name=told.name,
        state=_STATE.get(told.state, "unspecified"),
        aliases=tuple(told.aliases),
        pinned=told.pinned,
        rank=told.rank,
        bytes=told.bytes,
        created_unix_ms=told.created_unix_ms,
        error_code=told.last_error_code,
        error=told.last_error,
        metrics=dict(told.metrics),
        parent=told.parent,
        author=told.author,
    )


def _change(told: pb.Change) -> AdapterChange:
    return AdapterChange(told.at_unix_ms, told.kind, told.subject, told.before, told.after, told.author, told.reason)
