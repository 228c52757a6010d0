"""The rendered manifests, with lookups by name."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Object = dict[str, Any]

LONG_LIVED = ("Deployment", "StatefulSet", "LeaderWorkerSet")
WORKLOADS = (*LONG_LIVED, "Job", "CronJob", "Pod")


@dataclass(frozen=True, slots=True)
class Fault:
    """A violation of a rule: `rule` is the rule's short name, and `where` the object."""

    rule: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod, or an object that creates pods."""

    object: Object

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def where(self) -> str:
        return f"{self.object['kind']}/{self.name}"

    @property
    def template(self) -> Object:
        if self.object["kind"] == "Pod":
            return self.object
        spec: Object = self.object["spec"]
        template: Object = spec.get("jobTemplate", {}).get("spec", spec)["template"]
        return template

    @property
    def service(self) -> str:
        """Returns the service that runs in the pods; several lora-servers are one service."""
        return str(self.labels.get("app.kubernetes.io/name", ""))

    @property
    def pod(self) -> Object:
        pod: Object = self.template["spec"]
        return pod

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.template["metadata"].get("labels", {})
        return labels

    @property
    def containers(self) -> list[Object]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def ports(self) -> dict[str | int, int]:
        """The container ports, by their names and by their numbers."""
        declared = [port for container in self.containers for port in container.get("ports", [])]
        named: dict[str | int, int] = {port["name"]: port["containerPort"] for port in declared if "name" in port}
        return named | {port["containerPort"]: port["containerPort"] for port in declared}


class Cluster:
    def __init__(self, objects: Iterable[Object]) -> None:
        self.objects = list(objects)

    @classmethod
    def of(cls, rendered: str) -> "Cluster":
        return cls(object for object in yaml.load_all(rendered, yaml.CSafeLoader) if object)

    def copied(self) -> "Cluster":
        """Returns a copy that can be modified."""
        return Cluster(copy.deepcopy(self.objects))

    def all(self, *kinds: str) -> list[Object]:
        return [object for object in self.objects if object["kind"] in kinds]

    def get(self, kind: str, name: str) -> Object | None:
        return next((object for object in self.all(kind) if object["metadata"]["name"] == name), None)

    def has(self, kind: str, name: str) -> bool:
        return self.get(kind, name) is not None

    @property
    def workloads(self) -> list[Workload]:
        return [workload for object in self.all(*WORKLOADS) for workload in _workloads(object)]

    def workload(self, name: str) -> Workload:
        return next(workload for workload in self.workloads if workload.name == name)

    @property
    def services(self) -> list[Workload]:
        """Returns the workloads that run until they are stopped. Further nodes of an engine are left out, because they
        belong to its first node.
        """
        long_lived = [workload for workload in self.workloads if workload.object["kind"] in LONG_LIVED]
        return [workload for workload in long_lived if workload.service != "engine-node"]

    def selected(self, selector: Mapping[str, Any]) -> list[Workload]:
        """Returns the workloads whose labels match the selector: `matchLabels` and `matchExpressions`, or a Service's
        plain selector.
        """
        return [workload for workload in self.workloads if matches(selector, workload.labels)]

    def environment(self, workload: Workload, container: Object) -> dict[str, str]:
        """Returns the variables with literal values in the container's environment, including those from ConfigMaps."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found = self.get("ConfigMap", source.get("configMapRef", {}).get("name", ""))
            values |= found.get("data", {}) if found else {}
        return values | {entry["name"]: str(entry["value"]) for entry in container.get("env", []) if "value" in entry}


def _workloads(object: Object) -> Iterator[Workload]:
    """Yields the object as a workload. A LeaderWorkerSet is two workloads: its first node and its further nodes."""
    group = object.get("spec", {}).get("leaderWorkerTemplate")
    if group is None:
        yield Workload(object)
        return
    for role in ("leaderTemplate", "workerTemplate"):
        yield Workload({**object, "spec": {**object["spec"], "template": group[role]}})


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if "matchLabels" in selector or "matchExpressions" in selector or not selector:
        plain = selector.get("matchLabels") or {}
        return _hold(plain, labels) and all(_holds(each, labels) for each in selector.get("matchExpressions") or ())
    return _hold(selector, labels)


def _hold(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, named = labels.get(expression["key"]), expression.get("values", [])
    return {
        "In": value in named,
        "NotIn": value not in named,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]


def where(object: Object) -> str:
    return f"{object['kind']}/{object['metadata']['name']}"


def each_container(cluster: Cluster) -> Iterator[tuple[Workload, Object, str]]:
    for workload in cluster.workloads:
        for container in workload.containers:
            yield workload, container, f"{workload.where} {container['name']}"
