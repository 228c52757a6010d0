"""Faults that a schema cannot see: what names something that is not there, and what the checklist of ours forbids."""

from tests.deploy.manifest_lint import (
    exposure,
    monitoring,
    networks,
    pods,
    probes,
    references,
    rollouts,
    scaling,
    settings,
)
from tests.deploy.manifest_lint.cluster import Cluster, Fault

MODULES = (references, networks, probes, pods, exposure, settings, rollouts, scaling, monitoring)

__all__ = ["Cluster", "Fault", "faults"]


def faults(cluster: Cluster) -> list[Fault]:
    """All that is wrong, by every rule."""
    return [fault for module in MODULES for rule in module.RULES for fault in rule(cluster)]
