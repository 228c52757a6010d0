"""How models.yaml writes a group of engines: a name that DNS knows, and a port."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

LORA_SERVERS = "dns:///"
"""As gRPC writes it: each address of the name is a lora-server, with its engine beside it."""
ENGINES = "dns+http://"
"""Each address of the name is an OpenAI-compatible engine."""


@dataclass(frozen=True, slots=True)
class DnsName:
    host: str
    port: int
    path: str = ""
    """That all paths of an engine begin with; mostly empty."""

    def address_of(self, address: str) -> str:
        """HOST:PORT of one of its addresses."""
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"


def group_of(lora_server: str, url: str) -> DnsName | None:
    """None where neither names a group. Raises ValueError where one is written wrongly."""
    if lora_server.startswith(LORA_SERVERS):
        return _read(lora_server, "//" + lora_server.removeprefix(LORA_SERVERS), f"{LORA_SERVERS}NAME:PORT")
    if url.startswith(ENGINES):
        return _read(url, "//" + url.removeprefix(ENGINES), f"{ENGINES}NAME:PORT")
    for written, right in ((lora_server, LORA_SERVERS), (url, ENGINES)):
        if written.startswith("dns"):
            raise ValueError(f"'{written}' is no group of engines; write {right}NAME:PORT")
    return None


def _read(written: str, location: str, right: str) -> DnsName:
    parts = urlsplit(location)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.username or parts.query:
        raise ValueError(f"'{written}' is no group of engines; write {right}")
    if _is_address(host):
        raise ValueError(f"'{written}' is one address and no name; write it as any engine, without dns")
    return DnsName(host, port, parts.path.rstrip("/"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
