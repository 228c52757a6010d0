"""What is asked over gRPC of adapters: bounded, and as the domain's nouns. The domain checks names itself."""

import math
from collections.abc import Sequence
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.domain import CanaryTerms, Placement, check_alias, check_name, check_version, is_version
from pointsman_lora_server.registry import CanaryOutcomes, RequestCounts

AUTHOR_CHARACTERS = 200
REASON_CHARACTERS = 1000
FOLDER_CHARACTERS = 4096
FACTS = 64
FACT_CHARACTERS = 1000
CHANGES = 1000
MOST_COPIES = 10_000
OUTCOMES = 1000
HIGHEST_COUNT = 2**40
LAST_BUCKET = 120
"""2^30 milliseconds: twelve days."""

_DEFAULT_CHANGES = 100


def check_register(request: pb.RegisterRequest) -> None:
    check_author(request.author)
    if not request.folder or "\0" in request.folder or len(request.folder) > FOLDER_CHARACTERS:
        raise _bad("folder", f"a folder's path has 1 to {FOLDER_CHARACTERS} characters")
    if request.parent:
        check_version(request.parent)
    if len(request.facts) > FACTS:
        raise _bad("facts", f"{len(request.facts)} facts are more than {FACTS}")
    for name, value in request.facts.items():
        if not name or max(len(name), len(value)) > FACT_CHARACTERS:
            raise _bad("facts", f"a fact has a name, and neither that nor its value more than {FACT_CHARACTERS} chars")


def check_filter(name: str) -> None:
    """Empty is all adapters."""
    if name:
        check_name(name)


def check_version_or_alias(name: str) -> None:
    if not is_version(name):
        check_alias(name)


def check_author(author: str) -> None:
    if len(author) > AUTHOR_CHARACTERS:
        raise _bad("author", f"an author has at most {AUTHOR_CHARACTERS} characters")


def check_rollback(request: pb.RollbackRequest) -> None:
    check_author(request.author)
    if len(request.reason) > REASON_CHARACTERS:
        raise _bad("reason", f"a reason has at most {REASON_CHARACTERS} characters")
    if request.expected_version:
        check_version(request.expected_version)


def check_canary(request: pb.SetCanaryRequest) -> None:
    check_author(request.author)
    if not 0 <= request.weight <= 1:  # nor NaN
        raise _bad("weight", f"a canary's weight is from 0 to 1, and not {request.weight:g}")
    if request.weight == 0 and request.version:
        raise _bad("weight", "a weight of 0 ends the canary, whatever its version; name none")
    if request.expected_version:
        check_version(request.expected_version)


def from_terms(terms: pb.CanaryTerms) -> CanaryTerms:
    """What is not said is the default."""
    named: dict[str, Any] = {field.name: value for field, value in terms.ListFields()}
    found = CanaryTerms(**named)
    if not 1 <= found.min_requests <= 1_000_000:
        raise _bad("min_requests", "from 1 to 1,000,000 requests can be waited for")
    for name, value in (
        ("max_error_excess", found.max_error_excess),
        ("max_invalid_excess", found.max_invalid_excess),
    ):
        if not 0 <= value <= 1:
            raise _bad(name, f"{name} is from 0 to 1, and not {value:g}")
    if not (found.max_latency_ratio >= 1 and math.isfinite(found.max_latency_ratio)):
        raise _bad("max_latency_ratio", f"max_latency_ratio is at least 1, and not {found.max_latency_ratio:g}")
    return found


def from_placement(placement: pb.Placement) -> Placement:
    """Raises InvalidArgument where it says nothing, or something that cannot be."""
    is_copies = placement.kind == pb.PLACEMENT_KIND_COPIES
    if is_copies != (placement.copies > 0) or placement.copies > MOST_COPIES:
        raise _bad("placement", f"copies are 1 to {MOST_COPIES}, with the kind COPIES, and with no other")
    match placement.kind:
        case pb.PLACEMENT_KIND_ALL:
            return Placement()
        case pb.PLACEMENT_KIND_COPIES:
            return Placement(placement.copies)
        case pb.PLACEMENT_KIND_ON_DEMAND:
            return Placement(0)
    raise _bad("placement", "a placement is ALL, COPIES or ON_DEMAND")


def history_limit(limit: int) -> int:
    if limit > CHANGES:
        raise _bad("limit", f"at most {CHANGES} changes are told at once, not {limit}")
    return limit or _DEFAULT_CHANGES


def from_outcomes(outcomes: Sequence[pb.Outcomes]) -> list[CanaryOutcomes]:
    if len(outcomes) > OUTCOMES:
        raise _bad("outcomes", f"{len(outcomes)} outcomes in one report are more than {OUTCOMES}")
    return [_from_outcome(each) for each in outcomes]


def _from_outcome(said: pb.Outcomes) -> CanaryOutcomes:
    check_alias(said.alias)
    check_version(said.version)
    counts = RequestCounts(said.requests, said.errors, said.invalid, dict(said.milliseconds))
    of_requests = (counts.errors, counts.invalid, sum(counts.milliseconds.values()))
    if counts.requests > HIGHEST_COUNT or max(of_requests) > counts.requests:
        raise _bad("outcomes", f"of {said.version}: errors, invalid answers and times are of its requests, not more")
    if any(bucket > LAST_BUCKET for bucket in counts.milliseconds):
        raise _bad("outcomes", f"of {said.version}: the last bucket of times is {LAST_BUCKET}")
    return CanaryOutcomes(said.alias, said.revision, said.version, counts)


def _bad(param: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, code=f"bad_{param}", param=param)
