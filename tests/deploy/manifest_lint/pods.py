"""Rules for privileges and resources: those of Pod Security `restricted`, and some stricter ones."""

from collections.abc import Iterator

from tests.deploy.manifest_lint.cluster import Cluster, Fault, each_container, where

GPU = "nvidia.com/gpu"


def unprivileged(cluster: Cluster) -> Iterator[Fault]:
    for workload, container, place in each_container(cluster):
        pod, own = workload.pod.get("securityContext", {}), container.get("securityContext", {})
        both = pod | own
        wanted = {
            "runs as root": both.get("runAsNonRoot") is True and both.get("runAsUser", 0) > 0,
            "may gain privileges": own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
            "can write its root": own.get("readOnlyRootFilesystem") is True,
            "keeps capabilities": own.get("capabilities", {}) == {"drop": ["ALL"]},
            "has no seccomp profile": both.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        }
        yield from (Fault(what, place, "Pod Security: restricted") for what, holds in wanted.items() if not holds)


def of_the_node(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        shares = [name for name in ("hostNetwork", "hostPID", "hostIPC") if workload.pod.get(name)]
        shares += [volume["name"] for volume in workload.pod.get("volumes", []) if "hostPath" in volume]
        if shares:
            yield Fault("shares the node", workload.where, ", ".join(shares))


def without_tokens(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        if workload.pod.get("automountServiceAccountToken") is not False:
            yield Fault("token mounted", workload.where, "could speak to the API server")
    for account in cluster.all("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield Fault("token mounted", where(account), "could speak to the API server")


def without_service_links(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        if workload.pod.get("enableServiceLinks") is not False:
            yield Fault("service links", workload.where, "a Service called vllm would set VLLM_PORT")


def memory(cluster: Cluster) -> Iterator[Fault]:
    for _, container, place in each_container(cluster):
        resources = container.get("resources", {})
        if "memory" not in resources.get("limits", {}) or "memory" not in resources.get("requests", {}):
            yield Fault("memory without bounds", place, str(resources))


def processor(cluster: Cluster) -> Iterator[Fault]:
    """Finds containers with a CPU limit, which would pause an event loop with all its streams, and containers without a
    CPU request.
    """
    for _, container, place in each_container(cluster):
        resources = container.get("resources", {})
        if "cpu" in resources.get("limits", {}):
            yield Fault("CPU limit", place, str(resources["limits"]["cpu"]))
        if "cpu" not in resources.get("requests", {}):
            yield Fault("no share of the CPU", place, str(resources.get("requests")))


def gpus(cluster: Cluster) -> Iterator[Fault]:
    for workload, container, place in each_container(cluster):
        resources = container.get("resources", {})
        asked, most = (resources.get(part, {}).get(GPU) for part in ("requests", "limits"))
        if asked != most:
            yield Fault("GPU request is not its limit", place, f"{asked} and {most}")
        if most and not any(toleration.get("key") == GPU for toleration in workload.pod.get("tolerations", [])):
            yield Fault("GPU without toleration", place, "its nodes would not take it")


def shared_memory(cluster: Cluster) -> Iterator[Fault]:
    """Finds engines whose /dev/shm is not memory of the pod: vLLM and torch pass tensors through it, and the default
    has 64 MiB.
    """
    for workload, container, place in each_container(cluster):
        if "pointsman-lora-server" not in container["image"] or container in workload.pod.get("initContainers", []):
            continue
        volumes = {volume["name"]: volume for volume in workload.pod.get("volumes", [])}
        mounted = [m for m in container.get("volumeMounts", []) if m["mountPath"] == "/dev/shm"]
        if not any(volumes.get(m["name"], {}).get("emptyDir", {}).get("medium") == "Memory" for m in mounted):
            yield Fault("small /dev/shm", place, "is no memory of the pod's own")


def scratch(cluster: Cluster) -> Iterator[Fault]:
    """Finds containers without a writable /tmp, since their root file system is read-only."""
    for _, container, place in each_container(cluster):
        if not any(mount["mountPath"] == "/tmp" for mount in container.get("volumeMounts", [])):
            yield Fault("no /tmp", place, "Python and others write there")


RULES = (
    unprivileged,
    of_the_node,
    without_tokens,
    without_service_links,
    memory,
    processor,
    gpus,
    shared_memory,
    scratch,
)
