"""DNS resolution with a real server, and the errors for names that cannot be resolved."""

from collections.abc import AsyncIterator

import pytest
from pointsman_gateway.engines.dns_groups import DnsResolver
from pointsman_gateway.settings import Settings
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.dns_server import DnsServer, running_dns

NAME = "engines.pointsman.svc"


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with running_dns() as server:
        yield server


async def test_a_name_resolves_to_all_of_its_addresses(server: DnsServer) -> None:
    server.names[NAME] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert await DnsResolver(server.address).addresses(NAME) == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert await DnsResolver(server.address).addresses(NAME + ".") == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


async def test_a_host_with_ipv4_and_ipv6_counts_once(server: DnsServer) -> None:
    server.names[NAME] = ["10.0.0.1", "fd00::1"]
    assert await DnsResolver(server.address).addresses(NAME) == {"10.0.0.1"}
    server.names[NAME] = ["fd00::1", "fd00::2"]
    assert await DnsResolver(server.address).addresses(NAME) == {"fd00::1", "fd00::2"}


async def test_a_truncated_answer_is_repeated_over_tcp(server: DnsServer) -> None:
    many = {f"10.0.{number // 200}.{number % 200}" for number in range(500)}
    server.names[NAME] = sorted(many)
    assert await DnsResolver(server.address).addresses(NAME) == many


async def test_errors_are_reported(server: DnsServer) -> None:
    resolver = DnsResolver(server.address)
    with pytest.raises(Unavailable, match=f"DNS, asked for {NAME}: there is no such name"):
        await resolver.addresses(NAME)
    server.names[NAME] = []
    with pytest.raises(Unavailable, match="the name has no address"):
        await resolver.addresses(NAME)
    server.broken = True
    with pytest.raises(Unavailable, match="SERVFAIL"):
        await resolver.addresses(NAME)


async def test_a_silent_server_times_out(server: DnsServer) -> None:
    server.silent = True
    with pytest.raises(Unavailable, match=f"DNS, asked for {NAME}: LifetimeTimeout"):
        await DnsResolver(server.address).addresses(NAME)


def test_the_server_is_named_by_its_address() -> None:
    assert Settings(dns="[fd00::a]:53").dns == "[fd00::a]:53"
    with pytest.raises(ValueError, match=r"write ADDRESS:PORT, as in 10\.96\.0\.10:53"):
        Settings(dns="kube-dns.kube-system:53")
