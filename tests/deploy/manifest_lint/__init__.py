"""Finds faults in manifests that a schema cannot detect: dangling references, and violations of our checklist."""

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
    """Returns the findings of all rules."""
    return [fault for module in MODULES for rule in module.RULES for fault in rule(cluster)]
