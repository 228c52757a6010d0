"""Rules for scraping, resource limits, and Prometheus queries."""

import re
from collections.abc import Iterator

import promql_parser as promql

from tests.deploy.manifest_lint.cluster import Cluster, Fault, Object, Workload, where

SERVICES = {"gateway", "retriever", "lora-server", "engine"}
"""The services whose metrics the rules use. Each job of Prometheus has its service's name."""

LIMITS = ("sampleLimit", "bodySizeLimit", "labelLimit", "labelNameLengthLimit", "labelValueLengthLimit")


def monitors_select(cluster: Cluster) -> Iterator[Fault]:
    for monitor in cluster.all("PodMonitor"):
        if not cluster.selected(monitor["spec"]["selector"]):
            yield Fault("monitor selects nothing", where(monitor), str(monitor["spec"]["selector"]))


def monitor_ports(cluster: Cluster) -> Iterator[Fault]:
    for monitor in cluster.all("PodMonitor"):
        for workload in cluster.selected(monitor["spec"]["selector"]):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in workload.ports:
                    yield Fault("monitor's port", where(monitor), f"{workload.where} has no port {endpoint['port']}")


def monitor_limits(cluster: Cluster) -> Iterator[Fault]:
    for monitor in cluster.all("PodMonitor"):
        missing = [limit for limit in LIMITS if limit not in monitor["spec"]]
        if missing:
            yield Fault("monitor without limits", where(monitor), ", ".join(missing))


def jobs(cluster: Cluster) -> Iterator[Fault]:
    monitors = cluster.all("PodMonitor")
    named = {name for monitor in monitors for name in _jobs(monitor)}
    running = {workload.service for workload in cluster.services} & SERVICES
    has_engine = any(workload.service == "lora-server" and "engine" in workload.ports for workload in cluster.services)
    scraped = running | ({"engine"} if has_engine else set())
    expected = {f"pointsman-{service}" for service in scraped}
    if monitors and named != expected:
        yield Fault("jobs", "PodMonitor", f"the rules know {sorted(expected)}, these are {sorted(named)}")


def monitor_schemes(cluster: Cluster) -> Iterator[Fault]:
    for monitor in cluster.all("PodMonitor"):
        for workload in cluster.selected(monitor["spec"]["selector"]):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if _over_tls(cluster, workload, endpoint) != (endpoint.get("scheme") == "https"):
                    yield Fault("monitor's scheme", where(monitor), str(endpoint.get("scheme", "http")))


def queries(cluster: Cluster) -> Iterator[Fault]:
    for object, query in _queries(cluster):
        try:
            promql.parse(query)
        except ValueError as error:
            yield Fault("PromQL", where(object), f"{error}: {query}")


def scaled_model(cluster: Cluster) -> Iterator[Fault]:
    """Finds autoscalers whose query names no served model in vLLM's label `model_name`, or is not aggregated."""
    served = {
        cluster.environment(workload, container).get("POINTSMAN_LORA_SERVED_MODEL_NAME")
        for workload in cluster.workloads
        for container in workload.containers
        if workload.service == "lora-server"
    }
    for object, query in _queries(cluster):
        if object["kind"] != "ScaledObject" or "vllm:" not in query:
            continue
        asked = set(re.findall(r'model_name="([^"]*)"', query))
        if not asked or not asked <= served:
            yield Fault("scales by another model", where(object), f"asks for {sorted(asked)}, served are {served}")
        if not re.search(r"\b(sum|max|avg|histogram_quantile)\b", query):
            yield Fault("query not aggregated", where(object), query)


def rules_are_watched(cluster: Cluster) -> Iterator[Fault]:
    if cluster.all("ScaledObject") and not cluster.all("PodMonitor"):
        yield Fault("scales by what nobody measures", "ScaledObject", "no monitor")


def _queries(cluster: Cluster) -> Iterator[tuple[Object, str]]:
    for rule in cluster.all("PrometheusRule"):
        for group in rule["spec"]["groups"]:
            yield from ((rule, each["expr"]) for each in group["rules"])
    for scaled in cluster.all("ScaledObject"):
        yield from ((scaled, t["metadata"]["query"]) for t in scaled["spec"]["triggers"] if t["type"] == "prometheus")


def _jobs(monitor: Object) -> Iterator[str]:
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        for relabeling in endpoint.get("relabelings", []):
            if relabeling.get("targetLabel") == "job":
                yield relabeling["replacement"]


def _over_tls(cluster: Cluster, workload: Workload, endpoint: Object) -> bool:
    settings = [cluster.environment(workload, container) for container in workload.containers]
    return endpoint["port"] == "http" and any("POINTSMAN_GATEWAY_TLS_CERTIFICATE" in each for each in settings)


RULES = (
    monitors_select,
    monitor_ports,
    monitor_limits,
    jobs,
    monitor_schemes,
    queries,
    scaled_model,
    rules_are_watched,
)
