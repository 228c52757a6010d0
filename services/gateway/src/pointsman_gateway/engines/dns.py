"""Asks DNS where a name leads to."""

import dns.asyncresolver
import dns.exception
import dns.resolver
from pointsman_servicekit.errors import Unavailable

PATIENCE = 2.0
"""Seconds for one question, over all servers that are asked."""


class Dns:
    """Implements the groups' `Resolver`: the servers and the search list of /etc/resolv.conf, and no /etc/hosts."""

    def __init__(self, server: str = "") -> None:
        """`server`: ADDRESS:PORT of the one that is asked instead."""
        self._server = server
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def addresses(self, host: str) -> frozenset[str]:
        """Its IPv4 addresses; of a name that has none, its IPv6 addresses: a member with both is there once.

        Raises Unavailable where there is no answer, no such name, or no address.
        """
        try:
            return await self._ask(host, "A")
        except dns.resolver.NoAnswer:
            pass
        except (dns.exception.DNSException, OSError) as error:
            raise _failed(host, error) from error
        try:
            return await self._ask(host, "AAAA")
        except (dns.exception.DNSException, OSError) as error:
            raise _failed(host, error) from error

    async def _ask(self, host: str, kind: str) -> frozenset[str]:
        # Not at the start: who has no group needs no /etc/resolv.conf.
        resolver = self._resolver = self._resolver or _resolver(self._server)
        answer = await resolver.resolve(host, kind, lifetime=PATIENCE, search=True)
        return frozenset(record.address for record in answer)


def _resolver(server: str) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=not server)
    if server:
        address, _, port = server.rpartition(":")
        resolver.nameservers, resolver.port = [address.strip("[]")], int(port)
    return resolver


def _failed(host: str, error: Exception) -> Unavailable:
    if isinstance(error, dns.resolver.NXDOMAIN):
        why = "there is no such name"
    elif isinstance(error, dns.resolver.NoAnswer):
        why = "the name has no address"
    else:
        why = f"{type(error).__name__}: {error}"
    return Unavailable(f"DNS, asked for {host}: {why}", code="dns_failed")
