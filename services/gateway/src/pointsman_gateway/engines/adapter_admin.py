"""A gRPC client for the adapter registry of a lora-server, for the console: lists adapters and moves aliases."""

from collections.abc import Awaitable
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.grpc_client import from_message, to_message
from pointsman_servicekit.grpc_errors import from_rpc_error

from pointsman_gateway.domain import Alias
from pointsman_gateway.domain.path import AdapterChange, AdapterListing, AdapterVersion, AliasMove

READ_TIMEOUT_SECONDS = 5.0
"""Timeout of calls to the lora-server that only read its registry, which is in Redis."""
LOAD_TIMEOUT_SECONDS = 180.0
"""Timeout of calls to the lora-server that change an alias, which may wait until an engine has loaded a version."""
MAX_CHANGES = 30

_STATE = {number: name.removeprefix("ADAPTER_STATE_").lower() for name, number in pb.AdapterState.items()}


class AdapterAdminClient:
    """Lists adapters and moves their aliases through the gRPC API of a lora-server, the service that loads adapters.

    Each method raises the lora-server's own error, Unavailable ("lora_server_unavailable") if it cannot be reached,
    or DeadlineExceeded if it does not answer in time.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = lora_server_pb2_grpc.LoraServerStub(channel)

    async def list_adapters(self) -> AdapterListing:
        listed = await _call(self._stub.List(pb.ListAdaptersRequest(), timeout=READ_TIMEOUT_SECONDS))
        history = await _call(self._stub.History(pb.HistoryRequest(limit=MAX_CHANGES), timeout=READ_TIMEOUT_SECONDS))
        return AdapterListing(
            tuple(map(_version, listed.versions)),
            tuple(map(to_alias, listed.aliases)),
            tuple(from_message(AdapterChange, change) for change in history.changes),
        )

    async def set_alias(self, move: AliasMove) -> Alias:
        """Points an alias to another adapter version once that is loaded, and ends the alias's canary.

        Returns the alias after the change.
        """
        request = to_message(pb.SetAliasRequest, move)
        return to_alias(await _call(self._stub.SetAlias(request, timeout=LOAD_TIMEOUT_SECONDS)))

    async def set_canary(self, move: AliasMove) -> Alias:
        """Starts a canary on an alias: once the version is loaded, it gets a part of the alias's requests.

        If `move` has no version and no weight, ends the alias's canary. Returns the alias after the change.
        """
        request = to_message(pb.SetCanaryRequest, move, terms=None)
        return to_alias(await _call(self._stub.SetCanary(request, timeout=LOAD_TIMEOUT_SECONDS)))

    async def roll_back(self, move: AliasMove) -> Alias:
        """Ends the alias's canary or, if it has none, points the alias back to its previous version.

        Returns the alias after the change.
        """
        request = to_message(pb.RollbackRequest, move)
        return to_alias(await _call(self._stub.Rollback(request, timeout=LOAD_TIMEOUT_SECONDS)))


async def _call(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "lora_server") from error


def to_alias(alias: pb.Alias) -> Alias:
    return Alias(alias.alias, alias.version, alias.revision, alias.canary_version, alias.canary_weight, alias.previous)


def _version(adapter: pb.AdapterVersion) -> AdapterVersion:
    return from_message(
        AdapterVersion,
        adapter,
        state=_STATE.get(adapter.state, "unspecified"),
        aliases=tuple(adapter.aliases),
        error_code=adapter.last_error_code,
        error=adapter.last_error,
        metrics=dict(adapter.metrics),
    )
