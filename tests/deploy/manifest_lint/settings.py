"""Rules for our services' settings: known names, existing addresses, and declared ports."""

import re
from collections.abc import Iterator, Mapping

from pointsman_gateway.export.settings import ExportSettings
from pointsman_gateway.settings import Settings as Gateway
from pointsman_lora_server.settings import Settings as LoraServer
from pointsman_retriever.settings import Settings as Retriever
from pydantic_settings import BaseSettings

from tests.deploy.manifest_lint.cluster import Cluster, Fault, Object, Workload, each_container

SERVICES: dict[str, type[BaseSettings]] = {"gateway": Gateway, "retriever": Retriever, "lora-server": LoraServer}
NOT_OURS = re.compile("POINTSMAN_(LORA_SERVER$|KEY$|CLIENT_)")
"""Variables of the example's models.yaml and of the command line; the services do not read them."""

ENGINE_URL = "POINTSMAN_LORA_ENGINE_URL"
"""The setting that names an engine which something else runs."""

_ADDRESS = re.compile(r"^(?:dns:///|https?://)?([a-z0-9-]+)(?:\.[a-z0-9-]+)*:(\d+)$")


def known_names(cluster: Cluster) -> Iterator[Fault]:
    """Finds settings that no service has; a service ignores unknown ones, so a typing error would not be noticed."""
    services: list[type[BaseSettings]] = [*SERVICES.values(), ExportSettings]
    known = {
        f"{service.model_config['env_prefix']}{name}".upper() for service in services for name in service.model_fields
    }
    for workload, container, place in each_container(cluster):
        named = {*cluster.environment(workload, container), *(entry["name"] for entry in container.get("env", []))}
        for name in sorted(named - known):
            if name.startswith("POINTSMAN_") and not NOT_OURS.match(name):
                yield Fault("unknown setting", place, name)


def known_values(cluster: Cluster) -> Iterator[Fault]:
    for workload, container, place, settings in _services(cluster):
        prefix = str(settings.model_config["env_prefix"])
        given = cluster.environment(workload, container)
        attached = {"engine_url": given[ENGINE_URL]} if ENGINE_URL in given else {}  # others need it
        for name, value in given.items():
            field = name.removeprefix(prefix).lower()
            if name.startswith(prefix) and field in settings.model_fields:
                try:
                    settings.model_validate({**attached, field: value})
                except ValueError as error:
                    yield Fault("bad setting", place, f"{name}: {error}")


def listening_ports(cluster: Cluster) -> Iterator[Fault]:
    for workload, container, place, _ in _services(cluster):
        for name, value in cluster.environment(workload, container).items():
            if not name.endswith("LISTEN"):
                continue
            host, _, port = value.rpartition(":")
            if host in ("127.0.0.1", "localhost"):
                yield Fault("listens to itself", place, f"{name}={value}")
            if int(port) not in workload.ports:
                yield Fault("listens at no port of its", place, f"{name}={value}")


def addresses(cluster: Cluster) -> Iterator[Fault]:
    for workload, container, place, _ in _services(cluster):
        for name, value in cluster.environment(workload, container).items():
            found = _ADDRESS.match(value)
            if (
                not found
                or name.endswith("LISTEN")
                or name.startswith("OTEL_")
                or ".milvus." in value
                or name == ENGINE_URL
            ):
                continue
            service = cluster.get("Service", found[1])
            if service is None or int(found[2]) not in [port["port"] for port in service["spec"]["ports"]]:
                yield Fault("address of nobody", place, f"{name}={value}")


def mounted_files(cluster: Cluster) -> Iterator[Fault]:
    """Finds files that settings name below /etc, /var or /tmp and that are not mounted; nothing else exists there or is
    writable.
    """
    for workload, container, place, _ in _services(cluster):
        mounted = [mount["mountPath"].rstrip("/") for mount in container.get("volumeMounts", [])]
        for name, value in cluster.environment(workload, container).items():
            lies = value.startswith(("/etc/", "/var/", "/tmp/"))
            if lies and not any(value == path or value.startswith(f"{path}/") for path in mounted):
                yield Fault("file of nowhere", place, f"{name}={value}")


def keys_in_production(cluster: Cluster) -> Iterator[Fault]:
    """Finds gateways without authentication in installations with network policies: no budget would be enforced."""
    for workload, container, place, _ in _services(cluster):
        settings = cluster.environment(workload, container)
        if workload.service == "gateway" and cluster.all("NetworkPolicy") and _keys(settings) != "on":
            yield Fault("keys are off", place, "POINTSMAN_GATEWAY_AUTH")


def _keys(settings: Mapping[str, str]) -> str:
    return settings.get("POINTSMAN_GATEWAY_AUTH", "off")


def _services(
    cluster: Cluster,
) -> Iterator[tuple[Workload, Object, str, type[BaseSettings]]]:
    for workload, container, place in each_container(cluster):
        if workload.service in SERVICES and container["name"] == workload.service:
            yield workload, container, place, SERVICES[workload.service]


RULES = (known_names, known_values, listening_ports, addresses, mounted_files, keys_in_production)
