"""Rules against image tags that may change, exposed secrets, and configuration that pods would not reload."""

import re
from collections.abc import Iterator
from typing import Any

from tests.deploy.manifest_lint.cluster import Cluster, Fault, each_container, where

_HASHED = re.compile(r"-[a-z0-9]{10}$")
_SECRET_NAME = re.compile(r"(?i)(password|passwd|secret|token|api_?key|(?<!^POINTSMAN_GATEWAY)_auth)$")
"""Names of variables that hold secrets. POINTSMAN_GATEWAY_AUTH is not one of them: its value is "on" or "off"."""
_SECRET_VALUE = re.compile(r"://[^/\s:@]*:[^/\s@$]+@|-----BEGIN [A-Z ]*PRIVATE KEY|\bpm_[A-Za-z0-9]{16}")


def pinned_images(cluster: Cluster) -> Iterator[Fault]:
    for _, container, place in each_container(cluster):
        name, digest = container["image"].partition("@")[::2]
        tag = name.rpartition("/")[2].partition(":")[2]
        if not digest and tag in ("", "latest"):
            yield Fault("image without a version", place, container["image"])


def secrets_by_reference(cluster: Cluster) -> Iterator[Fault]:
    for secret in cluster.all("Secret"):
        if secret["metadata"].get("annotations", {}).get("helm.sh/resource-policy") != "keep":
            yield Fault("secret in the open", where(secret), "is neither made at the installation nor kept")
    for _, container, place in each_container(cluster):
        for entry in container.get("env", []):
            if "value" in entry and (_SECRET_NAME.search(entry["name"]) or _SECRET_VALUE.search(str(entry["value"]))):
                yield Fault("secret in the open", place, entry["name"])
    for map_ in cluster.all("ConfigMap"):
        for key, value in map_.get("data", {}).items():
            if (_SECRET_NAME.search(key) and value) or _SECRET_VALUE.search(value):
                yield Fault("secret in the open", where(map_), key)


def folders_not_sub_paths(cluster: Cluster) -> Iterator[Fault]:
    for _, container, place in each_container(cluster):
        for mount in container.get("volumeMounts", []):
            if "subPath" in mount or "subPathExpr" in mount:
                yield Fault("subPath", place, f"{mount['mountPath']} does not follow its source")


def policy_without_hash(cluster: Cluster) -> Iterator[Fault]:
    """Finds policy ConfigMaps with a hash in their name, whose changes running gateways could not reload; and pods that
    would not restart after a change of a file that is read only at the start.
    """
    for workload in cluster.workloads:
        for volume in workload.pod.get("volumes", []):
            for source in volume.get("projected", {}).get("sources", []):
                if _HASHED.search(source.get("configMap", {}).get("name", "")):
                    yield Fault("policy's name", workload.where, f"{source['configMap']['name']} has a hash")
        maps = [cluster.get("ConfigMap", name) or {} for name in _read_at_start(workload.pod)]
        if not all(map_.get("immutable") for map_ in maps) and "checksum/settings" not in workload.template[
            "metadata"
        ].get("annotations", {}):
            yield Fault("settings without a hash", workload.where, "a change would start nothing anew")


def a_size_that_fits(cluster: Cluster) -> Iterator[Fault]:
    for map_ in cluster.all("ConfigMap"):
        size = sum(len(value.encode()) for value in map_.get("data", {}).values())
        if size > 1_000_000:
            yield Fault("ConfigMap too large", where(map_), f"{size} bytes; etcd takes 1 MiB")


ELSEWHERE = ("Namespace", "Role", "RoleBinding")
"""Kinds of which some objects belong into other namespaces: Roles let gateways read the pools there."""


def one_namespace(cluster: Cluster) -> Iterator[Fault]:
    named = {object["metadata"].get("namespace", "") for object in cluster.objects if object["kind"] not in ELSEWHERE}
    if len(named) > 1:
        yield Fault("several namespaces", "", ", ".join(sorted(named)))
    for namespace in cluster.all("Namespace"):
        labels = namespace["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield Fault("namespace not restricted", where(namespace), "would take any pod")


def _read_at_start(pod: Any) -> Iterator[str]:
    for container in pod["containers"]:
        yield from (
            source["configMapRef"]["name"] for source in container.get("envFrom", []) if "configMapRef" in source
        )
    yield from (volume["configMap"]["name"] for volume in pod.get("volumes", []) if "configMap" in volume)


RULES = (
    pinned_images,
    secrets_by_reference,
    folders_not_sub_paths,
    policy_without_hash,
    a_size_that_fits,
    one_namespace,
)
