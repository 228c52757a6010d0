"""Converts between protobuf messages and the domain's values, and checks the fields of messages from clients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.grpc_client import from_message, to_message

from pointsman_lora_server.domain import (
    Alias,
    CanaryTerms,
    Change,
    EngineState,
    EngineStatus,
    Placement,
    VersionReport,
    VersionState,
    check_alias,
    check_name,
    check_version,
    is_version,
)

MAX_AUTHOR_CHARACTERS = 200
MAX_REASON_CHARACTERS = 1000
MAX_FOLDER_CHARACTERS = 4096
MAX_FACTS = 64
MAX_FACT_CHARACTERS = 1000
MAX_CHANGES = 1000
MAX_COPIES = 10_000
MAX_OUTCOMES = 1000
MAX_COUNT = 2**40
MAX_LATENCY_BUCKET = 120
"""The number of the last latency bucket in `RequestCounts.milliseconds`, which ends at 2^30 ms (twelve days)."""

_DEFAULT_CHANGES = 100

_STATUS = {status: getattr(pb, f"ENGINE_STATUS_{status.name}") for status in EngineStatus}
_STATE = {state: getattr(pb, f"ADAPTER_STATE_{state.name}") for state in VersionState}


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """The properties of the engine that do not change while this process runs."""

    name: str
    base_model: str
    url: str
    max_model_len: int
    tool_call_parser: str = ""


class StateMessages:
    """Converts the engine's state to protobuf messages.

    Successive calls with the same arguments return the same message object, which must not be modified.
    """

    def __init__(self, identity: EngineIdentity) -> None:
        self._identity = identity
        self._last: tuple[EngineState, frozenset[str] | None, pb.EngineState] | None = None

    def get(self, state: EngineState, changed: frozenset[str] | None = None) -> pb.EngineState:
        """Returns the engine's state as a message.

        If `changed` is given, the message only has the versions and aliases with these names, and `is_change` is set.
        Its field `removed` then lists those of the versions that are neither resident nor loadable.
        """
        if self._last is None or self._last[0] is not state or self._last[1] != changed:
            self._last = state, changed, self._convert(state, changed)
        return self._last[2]

    def _convert(self, state: EngineState, changed: frozenset[str] | None) -> pb.EngineState:
        message = pb.EngineState(
            engine=self._identity.name,
            status=_STATUS[state.status],
            base_model=self._identity.base_model,
            url=self._identity.url,
            sequence=state.sequence,
            engine_restarts=state.restarts,
            detail=state.detail,
            max_model_len=self._identity.max_model_len,
            tool_call_parser=self._identity.tool_call_parser,
            is_change=changed is not None,
        )
        if changed is None:
            message.resident.extend(sorted(state.resident))
            message.loadable.extend(sorted(state.loadable))
            message.aliases.extend(map(to_alias, state.aliases))
            message.training_seconds.update({name: each for name, each in state.ready.items() if each is not None})
        else:
            message.aliases.extend(to_alias(alias) for alias in state.aliases if alias.alias in changed)
            _add_versions(message, state, sorted(filter(is_version, changed)))
        return message


def _add_versions(message: pb.EngineState, state: EngineState, names: Sequence[str]) -> None:
    for name in names:
        if name in state.resident:
            message.resident.append(name)
        elif state.is_loadable(name):
            message.loadable.append(name)
        else:
            message.removed.append(name)
        if (seconds := state.ready.get(name)) is not None:
            message.training_seconds[name] = seconds


def to_alias(alias: Alias, canary_requests: int = 0) -> pb.Alias:
    message = pb.Alias(alias=alias.alias, version=alias.version, revision=alias.revision, previous=alias.previous)
    message.canary_requests = canary_requests
    if alias.canary:
        message.canary_version, message.canary_weight = alias.canary.version, alias.canary.weight
    return message


def to_placement(name: str, placement: Placement) -> pb.Placement:
    if placement.by_demand:
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_AUTO)
    if placement.copies is None:
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ALL)
    if not placement.copies:
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ON_DEMAND)
    return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_COPIES, copies=placement.copies)


def to_version(report: VersionReport) -> pb.AdapterVersion:
    return to_message(
        pb.AdapterVersion,
        report.version,
        state=_STATE[report.state],
        last_error=report.error,
        last_error_code=report.error_code,
        aliases=report.aliases,
        pinned=report.pinned,
    )


def to_change(change: Change) -> pb.Change:
    return to_message(pb.Change, change)


def check_register(request: pb.RegisterRequest) -> None:
    """Checks a request to register an adapter, except the name, the alias, and whether the folder exists, which
    `AdapterService.register` checks.

    Raises InvalidArgument if `folder` is empty or contains NUL, `parent` is not a version, there are more than
    `MAX_FACTS` facts, a fact has no name, or a text is too long.
    """
    check_author(request.author)
    if not request.folder or "\0" in request.folder or len(request.folder) > MAX_FOLDER_CHARACTERS:
        raise _bad("folder", f"a folder's path must have 1 to {MAX_FOLDER_CHARACTERS} characters")
    if request.parent:
        check_version(request.parent)
    if len(request.facts) > MAX_FACTS:
        raise _bad("facts", f"{len(request.facts)} facts are more than {MAX_FACTS}")
    for name, value in request.facts.items():
        if not name or max(len(name), len(value)) > MAX_FACT_CHARACTERS:
            raise _bad(
                "facts", f"a fact needs a name; name and value may have at most {MAX_FACT_CHARACTERS} characters each"
            )


def check_filter(name: str) -> None:
    """Raises InvalidArgument unless `name` is a valid adapter name, or empty, which selects all adapters."""
    if name:
        check_name(name)


def check_version_or_alias(name: str) -> None:
    if not is_version(name):
        check_alias(name)


def check_author(author: str) -> None:
    if len(author) > MAX_AUTHOR_CHARACTERS:
        raise _bad("author", f"an author may have at most {MAX_AUTHOR_CHARACTERS} characters")


def check_rollback(request: pb.RollbackRequest) -> None:
    check_author(request.author)
    if len(request.reason) > MAX_REASON_CHARACTERS:
        raise _bad("reason", f"a reason may have at most {MAX_REASON_CHARACTERS} characters")
    if request.expected_version:
        check_version(request.expected_version)


def check_canary(request: pb.SetCanaryRequest) -> None:
    check_author(request.author)
    if not 0 <= request.weight <= 1:  # false for NaN, too
        raise _bad("weight", f"a canary's weight must be from 0 to 1, not {request.weight:g}")
    if request.weight == 0 and request.version:
        raise _bad("weight", "a weight of 0 ends the canary, so no version may be named with it")
    if request.expected_version:
        check_version(request.expected_version)


def from_terms(terms: pb.CanaryTerms) -> CanaryTerms:
    """Converts the limits beyond which a canary is rolled back; fields that are not set get the defaults of
    `CanaryTerms`.

    Raises InvalidArgument for a value out of range: `min_requests` must be 1 to 1,000,000, `max_latency_ratio` at least
    1 and finite, and each other field 0 to 1.
    """
    fields: dict[str, Any] = {field.name: value for field, value in terms.ListFields()}
    result = CanaryTerms(**fields)
    if not 1 <= result.min_requests <= 1_000_000:
        raise _bad("min_requests", f"min_requests must be from 1 to 1,000,000, not {result.min_requests}")
    for name, value in (
        ("max_error_excess", result.max_error_excess),
        ("max_invalid_excess", result.max_invalid_excess),
        ("max_rating_loss", result.max_rating_loss),
    ):
        if not 0 <= value <= 1:
            raise _bad(name, f"{name} must be from 0 to 1, not {value:g}")
    if not (result.max_latency_ratio >= 1 and math.isfinite(result.max_latency_ratio)):
        raise _bad("max_latency_ratio", f"max_latency_ratio must be at least 1, not {result.max_latency_ratio:g}")
    return result


def from_placement(placement: pb.Placement) -> Placement:
    """Converts a placement (how many engines hold an adapter's versions).

    Raises InvalidArgument if its kind is missing, or `copies` is out of range: for the kind COPIES it must be 1 to
    `MAX_COPIES`, for any other kind 0.
    """
    is_copies = placement.kind == pb.PLACEMENT_KIND_COPIES
    if is_copies != (placement.copies > 0) or placement.copies > MAX_COPIES:
        raise _bad("placement", f"copies must be 1 to {MAX_COPIES} with the kind COPIES, and unset with any other kind")
    match placement.kind:
        case pb.PLACEMENT_KIND_ALL:
            return Placement()
        case pb.PLACEMENT_KIND_COPIES:
            return Placement(placement.copies)
        case pb.PLACEMENT_KIND_ON_DEMAND:
            return Placement(0)
        case pb.PLACEMENT_KIND_AUTO:
            return Placement(by_demand=True)
    raise _bad("placement", "a placement must be ALL, COPIES, ON_DEMAND or AUTO")


def history_limit(limit: int) -> int:
    """Returns the number of changes to list: `limit`, or `_DEFAULT_CHANGES` if it is 0. Raises InvalidArgument if it is
    above `MAX_CHANGES`.
    """
    if limit > MAX_CHANGES:
        raise _bad("limit", f"a call returns at most {MAX_CHANGES} changes, not {limit}")
    return limit or _DEFAULT_CHANGES


def from_outcomes(outcomes: Sequence[pb.Outcomes]) -> list[CanaryReport]:
    """Converts a gateway's report on the outcomes of requests to aliases with a canary.

    Raises InvalidArgument if it has more than `MAX_OUTCOMES` entries, a malformed alias or version, a count above
    `MAX_COUNT`, more errors, invalid answers or latencies than requests, a mean rating above 1, or a latency bucket
    above `MAX_LATENCY_BUCKET`.
    """
    if len(outcomes) > MAX_OUTCOMES:
        raise _bad("outcomes", f"{len(outcomes)} outcomes in one report are more than {MAX_OUTCOMES}")
    return [_from_outcome(each) for each in outcomes]


def _from_outcome(message: pb.Outcomes) -> CanaryReport:
    check_alias(message.alias)
    check_version(message.version)
    counts = from_message(RequestCounts, message, milliseconds=dict(message.milliseconds))
    parts = (counts.errors, counts.invalid, sum(counts.milliseconds.values()))
    if counts.requests > MAX_COUNT or max(parts) > counts.requests:
        raise _bad("outcomes", f"{message.version}: it has more errors, invalid answers or latencies than requests")
    if counts.rated > MAX_COUNT or counts.rating > 1000 * counts.rated:
        raise _bad("outcomes", f"{message.version}: the sum of its ratings is more than 1 for each rated answer")
    if (bucket := max(counts.milliseconds, default=0)) > MAX_LATENCY_BUCKET:
        raise _bad(
            "outcomes", f"{message.version}: there is no latency bucket {bucket}; the last is {MAX_LATENCY_BUCKET}"
        )
    return CanaryReport(message.alias, message.revision, message.version, counts)


def _bad(param: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, code=f"bad_{param}", param=param)
