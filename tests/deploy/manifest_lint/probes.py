"""Rules for probes: which pods need them, and what they may check."""

from collections.abc import Iterator

from tests.deploy.manifest_lint.cluster import Cluster, Fault, Object, Workload, each_container

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def all_there(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.services:
        for container in workload.pod["containers"]:
            for name in PROBES:
                if name not in container:
                    yield Fault("no probe", f"{workload.where} {container['name']}", f"has no {name}")


def ports(cluster: Cluster) -> Iterator[Fault]:
    for _, name, probe, container, place in _probes(cluster):
        declared = {p.get(key) for p in container.get("ports", []) for key in ("name", "containerPort")}
        for way in ("httpGet", "grpc", "tcpSocket"):
            if way in probe and probe[way]["port"] not in declared:
                yield Fault("probe's port", place, f"{name} asks at {probe[way]['port']}, which is no port of it")


def patience(cluster: Cluster) -> Iterator[Fault]:
    for _, name, probe, _, place in _probes(cluster):
        if probe.get("timeoutSeconds", 1) < 2:
            yield Fault("hasty probe", place, f"{name} waits {probe.get('timeoutSeconds', 1)} s for an answer")
        if "initialDelaySeconds" in probe:
            yield Fault("initialDelaySeconds", place, f"{name} guesses how long the start takes; use a startupProbe")


def readiness_is_quicker(cluster: Cluster) -> Iterator[Fault]:
    for _, container, place in each_container(cluster):
        ready, alive = container.get("readinessProbe"), container.get("livenessProbe")
        if ready and alive and _seconds(ready) >= _seconds(alive):
            yield Fault("liveness before readiness", place, f"{_seconds(ready)} s and {_seconds(alive)} s")


def alive_by_itself(cluster: Cluster) -> Iterator[Fault]:
    """Finds liveness probes that depend on other services (/readyz), which a restart does not repair."""
    for _, name, probe, _, place in _probes(cluster):
        if name != "readinessProbe" and probe.get("httpGet", {}).get("path", "").startswith("/readyz"):
            yield Fault("liveness asks others", place, f"{name} asks /readyz, which depends on what is behind it")


def ready_without_engines(cluster: Cluster) -> Iterator[Fault]:
    """Finds readiness probes that fail without an engine: clients would get the proxy's error instead of the gateway's
    503 with Retry-After.
    """
    for workload, name, probe, _, place in _probes(cluster):
        path = probe.get("httpGet", {}).get("path")
        if workload.service == "gateway" and name == "readinessProbe" and path != "/readyz?engines=0":
            yield Fault("readiness needs an engine", place, str(path))


def grpc_in_the_open(cluster: Cluster) -> Iterator[Fault]:
    """Finds gRPC probes of servers with TLS, which a kubelet's gRPC probe does not support."""
    for workload, name, probe, container, place in _probes(cluster):
        settings = cluster.environment(workload, container)
        if "grpc" in probe and any(key.endswith("_TLS_CERTIFICATE") for key in settings):
            yield Fault("gRPC probe of TLS", place, name)


def http_by_its_scheme(cluster: Cluster) -> Iterator[Fault]:
    for workload, name, probe, container, place in _probes(cluster):
        has_tls = "POINTSMAN_GATEWAY_TLS_CERTIFICATE" in cluster.environment(workload, container)
        over_tls = has_tls and probe.get("httpGet", {}).get("port") == "http"  # the port for metrics has none
        if "httpGet" in probe and over_tls != (probe["httpGet"].get("scheme") == "HTTPS"):
            yield Fault("probe's scheme", place, name)


def _probes(cluster: Cluster) -> Iterator[tuple[Workload, str, Object, Object, str]]:
    for workload, container, place in each_container(cluster):
        for name in PROBES:
            if name in container:
                yield workload, name, container[name], container, place


def _seconds(probe: Object) -> int:
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


RULES = (
    all_there,
    ports,
    patience,
    readiness_is_quicker,
    alive_by_itself,
    ready_without_engines,
    grpc_in_the_open,
    http_by_its_scheme,
)
