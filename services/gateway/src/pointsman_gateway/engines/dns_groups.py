"""Finds the engines of a group by DNS: each IP address of a host name is one engine. The name is looked up
periodically.
"""

import asyncio
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.engine_groups import DnsName
from pointsman_gateway.engines.engine_group import EngineGroup

if TYPE_CHECKING:  # imported at the first lookup: without groups a gateway does not need its 2 MB
    from dns.asyncresolver import Resolver as NameServers

log = logging.getLogger(__name__)

LOOKUP_INTERVAL_SECONDS = 1.0
"""Seconds between two lookups of a name. The TTL of DNS records is ignored, because the name server that caches the
records applies it."""
LOOKUP_TIMEOUT_SECONDS = 2.0
"""Time limit for the lookup of one kind of DNS record (IPv4 or IPv6 addresses), over all name servers."""


class Resolver(Protocol):
    async def addresses(self, host: str) -> frozenset[str]:
        """Returns the IP addresses of the host name `host`, at least one; raises Unavailable if DNS fails or has no
        address.
        """
        ...


async def watch_dns(group: EngineGroup, name: DnsName, resolver: Resolver) -> None:
    """Looks up `name` every `LOOKUP_INTERVAL_SECONDS`, and updates the group's engines, until cancelled."""
    while True:
        try:
            await look_up(group, name, resolver)
        except Exception:  # a bug must not end the loop: the members keep serving
            log.exception("engines %s: the DNS lookup failed", group.name)
        await asyncio.sleep(LOOKUP_INTERVAL_SECONDS)


async def look_up(group: EngineGroup, name: DnsName, resolver: Resolver) -> None:
    """Looks up `name` in DNS once, and makes each of its addresses one engine of the group.

    If DNS fails or has no address, the group keeps its engines, so that a wrong DNS answer does not remove working
    ones.
    """
    try:
        addresses = await resolver.addresses(name.host)
    except Unavailable as error:
        group.lookup_failed(error.message)
    else:
        group.lookup_succeeded([name.endpoint(address) for address in addresses])


class DnsResolver:
    """Looks up host names in DNS, without reading /etc/hosts; implements `Resolver`."""

    def __init__(self, server: str = "") -> None:
        """Takes the name server's ADDRESS:PORT; if it is empty, those in /etc/resolv.conf are asked."""
        self._server = server
        self._resolver: NameServers | None = None

    async def addresses(self, host: str) -> frozenset[str]:
        """Returns the IPv4 addresses of `host`; the IPv6 addresses if it has no IPv4 address.

        A machine with both is therefore listed once. Raises Unavailable if there is no answer within
        `LOOKUP_TIMEOUT_SECONDS`, no such name, or no address.
        """
        if self._resolver is None:  # a reload may add the first group during streams, and the import takes 0.2 s
            await asyncio.to_thread(import_module, "dns.asyncresolver")
        from dns.exception import DNSException
        from dns.resolver import NoAnswer

        try:
            return await self._resolve(host, "A")
        except NoAnswer:
            pass
        except (DNSException, OSError) as error:
            raise _dns_failed(host, error) from error
        try:
            return await self._resolve(host, "AAAA")
        except (DNSException, OSError) as error:
            raise _dns_failed(host, error) from error

    async def _resolve(self, host: str, record_type: str) -> frozenset[str]:
        # Created at the first lookup: without groups no /etc/resolv.conf is needed.
        resolver = self._resolver = self._resolver or _create_resolver(self._server)
        answer = await resolver.resolve(host, record_type, lifetime=LOOKUP_TIMEOUT_SECONDS, search=True)
        return frozenset(record.address for record in answer)


def _create_resolver(server: str) -> "NameServers":
    from dns.asyncresolver import Resolver as NameServers

    resolver = NameServers(configure=not server)
    if server:
        address, _, port = server.rpartition(":")
        resolver.nameservers, resolver.port = [address.strip("[]")], int(port)
    return resolver


def _dns_failed(host: str, error: Exception) -> Unavailable:
    from dns.resolver import NXDOMAIN, NoAnswer

    if isinstance(error, NXDOMAIN):
        reason = "there is no such name"
    elif isinstance(error, NoAnswer):
        reason = "the name has no address"
    else:
        reason = f"{type(error).__name__}: {error}"
    return Unavailable(f"DNS, asked for {host}: {reason}", code="dns_failed")
