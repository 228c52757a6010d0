"""Rules against references to objects that do not exist."""

from collections.abc import Iterator

from tests.deploy.manifest_lint.cluster import Cluster, Fault, Object, each_container, matches, where

SECRETS = {
    "pointsman-redis": {"url", "password"},
    "pointsman-tokens": {"gateway", "retriever", "lora-server", "operator"},
    "pointsman-first-key": {"key"},
    "my-first-key": {"key"},
    "provider-keys": set(),
    "store-keys": set(),
    "vllm-guard": {"secret"},
    "huggingface": set(),
    "company-ca": {"ca.crt"},
    "my-redis": {"url", "password"},
    "pointsman-milvus": {"token"},
    "pointsman-postgres": {"url", "password"},
    "backup-bucket": set(),
    "gateway-tls": {"tls.crt", "tls.key", "ca.crt"},
    "retriever-tls": {"tls.crt", "tls.key", "ca.crt"},
    "lora-server-tls": {"tls.crt", "tls.key", "ca.crt"},
}
"""Secrets that docs/kubernetes.md tells the user to create."""
CLAIMS = {"existing", "llama", "shared-adapters"}
"""Volume claims that users create."""

OF_EVERY_NAMESPACE = "kube-root-ca.crt"
"""The ConfigMap with the API server's CA, which Kubernetes creates."""


def scale_targets(cluster: Cluster) -> Iterator[Fault]:
    for scaler in cluster.all("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        if not cluster.has(target.get("kind", "Deployment"), target["name"]):
            yield Fault("scale target", where(scaler), f"there is no {target.get('kind')} {target['name']}")


def config_maps(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        for name in _config_maps(workload.pod):
            if name != OF_EVERY_NAMESPACE and not cluster.has("ConfigMap", name):
                yield Fault("ConfigMap", workload.where, f"there is no ConfigMap {name}")


def config_map_keys(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        for volume in workload.pod.get("volumes", []):
            for each in [volume, *volume.get("projected", {}).get("sources", [])]:
                source = each.get("configMap", {})
                found = cluster.get("ConfigMap", source.get("name", ""))
                for item in source.get("items", []) if found else ():
                    if item["key"] not in (found or {}).get("data", {}):
                        yield Fault("ConfigMap key", workload.where, f"{source['name']} has no {item['key']}")


def part_of(cluster: Cluster) -> Iterator[Fault]:
    """Yields a fault for each object without the label `app.kubernetes.io/part-of: pointsman`, by which users list and
    delete the objects of an installation.
    """
    for object in cluster.objects:
        if object["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") != "pointsman":
            yield Fault("no part-of label", where(object), "cannot be found with the others")


def secrets(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        for name, key in _secrets(workload.pod):
            if name not in SECRETS or (key and key not in SECRETS[name]):
                yield Fault(
                    "Secret", workload.where, f"nobody is told to make a secret {name} with {key or 'anything'}"
                )


def service_accounts(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        name = workload.pod.get("serviceAccountName", "default")
        if not cluster.has("ServiceAccount", name):
            yield Fault("ServiceAccount", workload.where, f"there is no ServiceAccount {name}")


def claims(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        for volume in workload.pod.get("volumes", []):
            name = volume.get("persistentVolumeClaim", {}).get("claimName")
            if name and name not in CLAIMS and not cluster.has("PersistentVolumeClaim", name):
                yield Fault("claim", workload.where, f"there is no PersistentVolumeClaim {name}")


def mounts(cluster: Cluster) -> Iterator[Fault]:
    for workload, container, place in each_container(cluster):
        templates = workload.object["spec"].get("volumeClaimTemplates", [])
        known = {volume["name"] for volume in workload.pod.get("volumes", [])}
        known |= {template["metadata"]["name"] for template in templates}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in known:
                yield Fault("volume", place, f"there is no volume {mount['name']}")


def governing_services(cluster: Cluster) -> Iterator[Fault]:
    for set_ in cluster.all("StatefulSet"):
        service = cluster.get("Service", set_["spec"]["serviceName"])
        if service is None or service["spec"].get("clusterIP") != "None":
            yield Fault("governing Service", where(set_), f"{set_['spec']['serviceName']} is no headless Service")


def own_selectors(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.services:
        selector = workload.object["spec"].get("selector")  # a LeaderWorkerSet has none
        if selector and not matches(selector, workload.labels):
            yield Fault("own selector", workload.where, "selects other pods than it makes")


def spreads(cluster: Cluster) -> Iterator[Fault]:
    for workload in cluster.workloads:
        for spread in workload.pod.get("topologySpreadConstraints", []):
            if not matches(spread["labelSelector"], workload.labels):
                yield Fault("topology spread", workload.where, "spreads other pods than its own")


def budgets(cluster: Cluster) -> Iterator[Fault]:
    for budget in cluster.all("PodDisruptionBudget"):
        if not cluster.selected(budget["spec"]["selector"]):
            yield Fault("disruption budget", where(budget), "selects nothing")


def _config_maps(pod: Object) -> Iterator[str]:
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield source["configMapRef"]["name"]
        for entry in container.get("env", []):
            if "configMapKeyRef" in entry.get("valueFrom", {}):
                yield entry["valueFrom"]["configMapKeyRef"]["name"]
    for volume in pod.get("volumes", []):
        sources = volume.get("projected", {}).get("sources", [])
        yield from (source["configMap"]["name"] for source in [volume, *sources] if "configMap" in source)


def _secrets(pod: Object) -> Iterator[tuple[str, str]]:
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                yield source["secretRef"]["name"], ""
        for entry in container.get("env", []):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                yield reference["name"], reference["key"]
    for volume in pod.get("volumes", []):
        if "secret" in volume:
            for item in volume["secret"].get("items", [{"key": ""}]):
                yield volume["secret"]["secretName"], item["key"]


RULES = (
    part_of,
    scale_targets,
    config_maps,
    config_map_keys,
    secrets,
    service_accounts,
    claims,
    mounts,
    governing_services,
    own_selectors,
    spreads,
    budgets,
)
