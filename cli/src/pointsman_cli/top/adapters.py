"""How the adapters stand with one engine, as its lora-server tells over gRPC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.errors import Unavailable

from pointsman_cli.adapters.pages import STATE
from pointsman_cli.grpc_clients import lora_server_stub, service_errors

SECONDS = 2.0
_WITH_THE_ENGINE = frozenset({"loading", "warm", "serving", "draining"})


@dataclass(frozen=True, slots=True)
class Adapter:
    version: str  # "triage@3f9a1c0b77de"
    state: str  # "serving"
    resident: bool
    pinned: bool
    aliases: tuple[str, ...]  # that point to it: "triage@prod"
    canary: Mapping[str, float]  # aliases that send it a share of their users, and the share


@dataclass(frozen=True, slots=True)
class Adapters:
    engine: str  # its name in the gateway's configuration
    status: str  # "ready"
    detail: str  # what the engine is doing, or why it is down
    versions: tuple[Adapter, ...]  # resident, or on the way in or out
    elsewhere: int  # versions that are registered, and not with this engine


async def look(channel: grpc.aio.Channel) -> Adapters:
    """Raises a `PointsmanError` where the lora-server does not answer."""
    server = lora_server_stub(channel)
    with service_errors("lora-server"):
        watching = server.Watch(pb.WatchRequest(), timeout=SECONDS)
        try:
            engine = await watching.read()  # the whole state comes at once
        finally:
            watching.cancel()
        found = await server.List(pb.ListAdaptersRequest(), timeout=SECONDS)
    if not isinstance(engine, pb.EngineState):
        raise Unavailable("lora-server ended the watch before it said anything", code="lora_server_unavailable")
    return _adapters(engine, found)


def _adapters(engine: pb.EngineState, found: pb.ListAdaptersResponse) -> Adapters:
    versions = [_adapter(version, found.aliases, version.version in engine.resident) for version in found.versions]
    shown = tuple(each for each in versions if each.resident or each.state in _WITH_THE_ENGINE)
    status = pb.EngineStatus.Name(engine.status).removeprefix("ENGINE_STATUS_").lower()
    return Adapters(engine.engine, status, engine.detail, shown, len(versions) - len(shown))


def _adapter(version: pb.AdapterVersion, aliases: Sequence[pb.Alias], resident: bool) -> Adapter:
    name = version.version
    return Adapter(
        version=name,
        state=STATE[version.state],
        resident=resident,
        pinned=version.pinned,
        aliases=tuple(each.alias for each in aliases if each.version == name),
        canary={each.alias: each.canary_weight for each in aliases if each.canary_version == name},
    )
