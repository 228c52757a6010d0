"""Rules for rolling updates: no request is lost, and shutdown has enough time."""

from collections.abc import Iterator, Mapping

from tests.deploy.manifest_lint.cluster import Cluster, Fault, matches, where
from tests.deploy.manifest_lint.settings import SERVICES

ENGINES_END = 30
"""Seconds that vLLM needs to stop, including its own drain."""

LAST_STEPS = 5
"""Seconds that a service needs to exit after its drain."""
DRAIN_SETTINGS = ("drain_notice", "drain_grace", "shutdown_delay", "shutdown_timeout")


def time_to_drain(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.services:
        environment = cluster.environment(workload, workload.pod["containers"][0])
        needed = max(_sleep(c) for c in workload.containers) + shutdown_seconds(workload.service, environment)
        grace = workload.pod.get("terminationGracePeriodSeconds", 30)
        if grace < needed:
            yield Fault("grace too short", workload.where, f"{grace} s, and {needed:g} s are needed")


def notice(cluster: Cluster) -> Iterator[Fault]:
    """Finds services without a preStop hook: clients learn later than the pod that it is stopping, so it must serve a
    while longer.
    """
    for workload in cluster.services:
        for container in workload.pod["containers"]:
            if not _sleep(container):
                yield Fault("no preStop", f"{workload.where} {container['name']}", "would refuse what is on its way")


def gateways_first_come_then_go(cluster: Cluster) -> Iterator[Fault]:
    for deployment in cluster.all("Deployment"):
        rolling = deployment["spec"].get("strategy", {}).get("rollingUpdate", {})
        if rolling.get("maxUnavailable") != 0:
            yield Fault("goes before another comes", where(deployment), str(rolling))


def engines_wait_for_no_gpu(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.services:
        uses = any("nvidia.com/gpu" in c.get("resources", {}).get("limits", {}) for c in workload.containers)
        if uses and workload.object["kind"] not in ("StatefulSet", "LeaderWorkerSet"):  # neither surges by default
            yield Fault("surge of GPUs", workload.where, "its roll-out waits for a GPU that is free")


def sets_are_parallel(cluster: Cluster) -> Iterator[Fault]:
    """Finds StatefulSets that are not `Parallel`, the only value with which a rollback does not wait for a pod that
    never gets ready. The field is immutable.
    """
    for set_ in cluster.all("StatefulSet"):
        if set_["spec"].get("podManagementPolicy") != "Parallel":
            yield Fault("one after another", where(set_), "each pod waits for the one before it")


def claim_templates(cluster: Cluster) -> Iterator[Fault]:
    for set_ in cluster.all("StatefulSet"):
        for template in set_["spec"].get("volumeClaimTemplates", []):
            if template["metadata"].keys() - {"name"}:
                yield Fault("labelled claim template", where(set_), "could never be changed")


def budgets(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.services:
        of_it = [b for b in cluster.all("PodDisruptionBudget") if matches(b["spec"]["selector"], workload.labels)]
        if len(of_it) != 1:
            yield Fault("disruption budgets", workload.where, f"has {len(of_it)}")
        for budget in of_it:
            if budget["spec"].get("maxUnavailable") != 1:
                yield Fault("budget that blocks", where(budget), "a node could never be emptied; use maxUnavailable: 1")
            if budget["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
                yield Fault("budget keeps broken pods", where(budget), "unhealthyPodEvictionPolicy is not AlwaysAllow")


def spread(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.services:
        several = workload.object["kind"] == "Deployment"
        if several and not workload.pod.get("topologySpreadConstraints"):
            yield Fault("all on one node", workload.where, "has no topologySpreadConstraints")


def shutdown_seconds(service: str, environment: Mapping[str, str]) -> float:
    """Returns the time that a service needs from SIGTERM to its end; for our services, computed from their settings."""
    if service not in SERVICES:
        return LAST_STEPS
    settings = SERVICES[service]
    prefix = settings.model_config["env_prefix"]
    fields = {name: field for name, field in settings.model_fields.items() if name in DRAIN_SETTINGS}
    drain = sum(float(environment.get(f"{prefix}{name}".upper(), field.default)) for name, field in fields.items())
    return drain + (ENGINES_END if service == "lora-server" else 0) + LAST_STEPS


def _sleep(container: dict[str, object]) -> float:
    lifecycle = container.get("lifecycle")
    before = lifecycle.get("preStop", {}) if isinstance(lifecycle, dict) else {}
    command = before.get("exec", {}).get("command", [])
    if len(command) == 2 and command[0] == "sleep":
        return float(command[1])
    return float(before.get("sleep", {}).get("seconds", 0))


RULES = (
    time_to_drain,
    notice,
    gateways_first_come_then_go,
    engines_wait_for_no_gpu,
    sets_are_parallel,
    claim_templates,
    budgets,
    spread,
)
