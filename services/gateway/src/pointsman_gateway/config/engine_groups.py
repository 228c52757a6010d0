"""The addresses of groups of engines in models.yaml: a DNS name, or an InferencePool (a set of pods) of Kubernetes."""

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

LORA_SERVER_GROUP = "dns:///"
"""The first characters of a `lora_server` that is a group, in gRPC's notation. Each IP address of the DNS name is a
lora-server.
"""
ENGINE_GROUP = "dns+http://"
"""The first characters of a `url` that is a group. Each IP address of the DNS name is an OpenAI-compatible engine."""
POOL = "inferencepool://"
"""The first characters of a `lora_server` or `url` that is a group of the pods of a Kubernetes InferencePool."""

_POOL = re.compile(r"(?P<namespace>[a-z0-9-]{1,63})/(?P<name>[a-z0-9.-]{1,253})(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class DnsName:
    """The address of a group of engines: a DNS name and a port. Each IP address of the name is one engine."""

    host: str
    port: int
    path: str = ""
    """The path before the API's paths in the URL of each engine; usually empty."""

    @property
    def server_name(self) -> str:
        """Returns the host name that the certificates of the group's lora-servers must have: the DNS name."""
        return self.host

    def endpoint(self, address: str) -> str:
        return endpoint(address, self.port)


@dataclass(frozen=True, slots=True)
class PoolName:
    """The address of a group of engines: the name of a Kubernetes InferencePool, which selects pods.

    Each ready pod has one lora-server, or one engine at each target port.
    """

    namespace: str
    name: str
    port: int | None = None
    """The port of the pods' lora-servers; None for engines, whose ports the pool names."""

    @property
    def server_name(self) -> str:
        """Returns the host name that the certificates of the group's lora-servers must have: "NAME.NAMESPACE"."""
        return f"{self.name}.{self.namespace}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


GroupName: TypeAlias = DnsName | PoolName


def endpoint(address: str, port: int) -> str:
    """Returns HOST:PORT for an IP address; an IPv6 address is put in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def parse_group(lora_server: str, url: str) -> GroupName | None:
    """Returns the address of the group of engines in `lora_server` or `url`; None if they are the addresses of a single
    engine.

    A group of lora-servers is "dns:///NAME:PORT" or "inferencepool://NAMESPACE/NAME:PORT". A group of engines is
    "dns+http://NAME:PORT" or "inferencepool://NAMESPACE/NAME". Raises ValueError if an address that begins with "dns"
    or "inferencepool" has another form, or an IP address instead of a DNS name.
    """
    for setting, has_port in ((lora_server, True), (url, False)):
        if setting.startswith(POOL.removesuffix("//")):
            return _parse_pool(setting, has_port)
    if lora_server.startswith(LORA_SERVER_GROUP):
        return _parse(lora_server, "//" + lora_server.removeprefix(LORA_SERVER_GROUP), f"{LORA_SERVER_GROUP}NAME:PORT")
    if url.startswith(ENGINE_GROUP):
        return _parse(url, "//" + url.removeprefix(ENGINE_GROUP), f"{ENGINE_GROUP}NAME:PORT")
    for setting, prefix in ((lora_server, LORA_SERVER_GROUP), (url, ENGINE_GROUP)):
        if setting.startswith("dns"):
            raise ValueError(f"'{setting}' is no group of engines; write {prefix}NAME:PORT")
    return None


def _parse_pool(setting: str, has_port: bool) -> PoolName:
    parts = _POOL.fullmatch(setting.removeprefix(POOL))
    if parts is None or (parts["port"] is not None) is not has_port or int(parts["port"] or 1) not in range(1, 65536):
        expected = f"{POOL}NAMESPACE/NAME" + (
            ":PORT, with the lora-servers' port" if has_port else "; the pool has the engines' ports"
        )
        raise ValueError(f"'{setting}' is no group of engines; write {expected}")
    return PoolName(parts["namespace"], parts["name"], int(parts["port"]) if has_port else None)


def _parse(setting: str, location: str, expected: str) -> DnsName:
    parts = urlsplit(location)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.username or parts.query:
        raise ValueError(f"'{setting}' is no group of engines; write {expected}")
    if _is_address(host):
        raise ValueError(f"'{setting}' is one address and no name; write it as a single engine, without dns")
    return DnsName(host, port, parts.path.rstrip("/"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
