"""The domain's nouns as they travel over gRPC."""

from dataclasses import dataclass

from pointsman.v1 import lora_server_pb2 as pb

from pointsman_lora_server.domain import (
    Alias,
    Change,
    EngineState,
    EngineStatus,
    Placement,
    VersionReport,
    VersionState,
)

_STATUS = {
    EngineStatus.STARTING: pb.ENGINE_STATUS_STARTING,
    EngineStatus.READY: pb.ENGINE_STATUS_READY,
    EngineStatus.DOWN: pb.ENGINE_STATUS_DOWN,
}
_STATE = {
    VersionState.REGISTERED: pb.ADAPTER_STATE_REGISTERED,
    VersionState.VALIDATING: pb.ADAPTER_STATE_VALIDATING,
    VersionState.READY: pb.ADAPTER_STATE_READY,
    VersionState.LOADING: pb.ADAPTER_STATE_LOADING,
    VersionState.WARM: pb.ADAPTER_STATE_WARM,
    VersionState.SERVING: pb.ADAPTER_STATE_SERVING,
    VersionState.DRAINING: pb.ADAPTER_STATE_DRAINING,
    VersionState.RETIRED: pb.ADAPTER_STATE_RETIRED,
    VersionState.FAILED: pb.ADAPTER_STATE_FAILED,
}


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What stays true of the engine, whatever it is doing."""

    name: str
    base_model: str
    url: str
    max_model_len: int


def to_state(identity: EngineIdentity, state: EngineState) -> pb.EngineState:
    return pb.EngineState(
        engine=identity.name,
        status=_STATUS[state.status],
        base_model=identity.base_model,
        url=identity.url,
        resident=sorted(state.resident),
        aliases=map(to_alias, state.aliases),
        sequence=state.sequence,
        engine_restarts=state.restarts,
        detail=state.detail,
        max_model_len=identity.max_model_len,
        loadable=sorted(state.loadable),
        training_seconds=state.training_seconds,
    )


def to_alias(alias: Alias, canary_requests: int = 0) -> pb.Alias:
    message = pb.Alias(alias=alias.alias, version=alias.version, revision=alias.revision, previous=alias.previous)
    message.canary_requests = canary_requests
    if alias.canary:
        message.canary_version, message.canary_weight = alias.canary.version, alias.canary.weight
    return message


def to_placement(name: str, placement: Placement) -> pb.Placement:
    if placement.copies is None:
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ALL)
    if not placement.copies:
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ON_DEMAND)
    return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_COPIES, copies=placement.copies)


def to_version(report: VersionReport) -> pb.AdapterVersion:
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
        last_error=report.error,
        facts=version.facts,
        aliases=report.aliases,
        base_digest=version.base_digest,
        chat_template_sha256=version.chat_template_sha256,
        training_data_sha256=version.training_data_sha256,
        metrics=version.metrics,
        parent=version.parent,
        author=version.author,
        pinned=report.pinned,
        last_error_code=report.error_code,
    )


def to_change(change: Change) -> pb.Change:
    return pb.Change(
        id=change.id,
        at_unix_ms=change.at_unix_ms,
        kind=change.kind,
        subject=change.subject,
        before=change.before,
        after=change.after,
        author=change.author,
        reason=change.reason,
    )
