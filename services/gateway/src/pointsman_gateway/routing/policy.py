"""A task's policy: which of its paths a request should take, and which may stand in for it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from pointsman_gateway.config.schema import PolicyConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy wants of one request."""

    paths: tuple[str, ...]
    """The one to take, then those that may stand in for it, in order."""
    reason: str
    said: Mapping[str, str] = field(default_factory=dict)
    """What there is to say of a path that was weighed, taken or not."""
    escalates: bool = False
    """Whether the paths after the one that is taken are where to go if its answer is not accepted."""
    streams_freely: frozenset[str] = frozenset()


def plan(policy: PolicyConfig, sticky_key: str) -> Plan:
    """Of the policies that need to know nothing. A split sends equal keys the same way, while its weights stand."""
    if policy.escalate:
        freely = frozenset(policy.escalate.streams_freely)
        return Plan(policy.escalate.paths, "policy:escalate", escalates=True, streams_freely=freely)
    if policy.split:
        return Plan((_side(policy.split, point(sticky_key)),), "policy:split")
    return Plan((policy.fixed,), "policy:fixed")


def point(sticky_key: str) -> float:
    """Where the key lies between 0 and 1; keys lie evenly."""
    return float(int.from_bytes(hashlib.blake2b(sticky_key.encode(), digest_size=8).digest()) / 2**64)


def _side(split: Mapping[str, float], where: float) -> str:
    total, reached = sum(split.values()), 0.0
    for path, weight in split.items():
        reached += weight / total
        if where < reached:
            return path
    return path  # what rounding has left over
