"""A task's policy: which of its paths a request should take."""

import hashlib

from pointsman_gateway.config.schema import Policy


def choose(policy: Policy, sticky_key: str) -> tuple[str, str]:
    """The path's name and the reason. A split sends equal keys the same way, for as long as its weights stand."""
    if policy.fixed:
        return policy.fixed, "policy:fixed"
    point = int.from_bytes(hashlib.blake2b(sticky_key.encode(), digest_size=8).digest()) / 2**64
    total, reached = sum(policy.split.values()), 0.0
    for path, weight in policy.split.items():
        reached += weight / total
        if point < reached:
            return path, "policy:split"
    return path, "policy:split"
