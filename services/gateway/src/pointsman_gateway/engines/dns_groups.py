"""Engines behind one DNS name: each address of the name is one engine, and the name is looked up periodically.

An address that is new gets requests; one that has disappeared finishes its requests and gets no new ones.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.engine_config import DnsName
from pointsman_gateway.engines.engine_state import NOT_REPORTED, Engine, EngineState
from pointsman_gateway.engines.metrics import EngineMetrics

if TYPE_CHECKING:  # imported at the first lookup: without groups a gateway does not need its 2 MB
    from dns.asyncresolver import Resolver as NameServers

log = logging.getLogger(__name__)

LOOKUP_INTERVAL_SECONDS = 1.0
"""Seconds between two lookups. The records' TTL is ignored here: the name server that caches them applies it."""
LOOKUP_TIMEOUT_SECONDS = 2.0
"""Time limit for one lookup of one record type, over all name servers."""


class Resolver(Protocol):
    async def addresses(self, host: str) -> frozenset[str]:
        """Returns the IP addresses of `host`, at least one; raises Unavailable if DNS fails or has none."""
        ...


class TrackedMember(Protocol):
    """Interface of a member of a group, whose lora-server is watched if it has one."""

    @property
    def state(self) -> EngineState: ...

    def stop(self) -> None:
        """Stops asking for the member's state; called when the name no longer has the member's address."""
        ...


@dataclass(frozen=True, slots=True)
class _NumberedMember:
    number: int
    tracked: TrackedMember


class EngineGroup:
    """The engines of one group: one member for each address that DNS lists, up to `max_members`.

    If DNS fails or lists no address, the members stay, so that a wrong DNS answer does not remove all engines that
    work. The circuit breaker finds an engine that is really gone.
    """

    def __init__(
        self,
        template: Engine,
        name: DnsName,
        max_members: int,
        track: Callable[[Engine], TrackedMember],
        on_change: Callable[[], None],
        metrics: EngineMetrics,
    ) -> None:
        """Takes `template`, of which members are made as copies, and which represents the group while it has none.

        `track` makes a member's state and starts to watch its lora-server. `on_change` is called after `states` has
        changed.
        """
        self._placeholder = EngineState(template)
        self._dns_name = name
        self._max_members = max_members
        self._track = track
        self._on_change = on_change
        self._metrics = metrics
        self._members: dict[str, _NumberedMember] = {}
        """By address, the member."""
        self._logged_problem = ""
        metrics.group_has(template.name, 0, 0)

    @property
    def states(self) -> Sequence[EngineState]:
        """Returns the members' states, ordered by the members' numbers; the template's state if there are none."""
        members = sorted(self._members.values(), key=lambda member: member.number)
        return [member.tracked.state for member in members] or [self._placeholder]

    async def watch(self, resolver: Resolver) -> None:
        """Looks the group's name up every `LOOKUP_INTERVAL_SECONDS`, until cancelled."""
        while True:
            try:
                await self.look_up(resolver)
            except Exception:  # a bug must not end the loop: the members keep serving
                log.exception("engines %s: the DNS lookup failed", self._name)
            await asyncio.sleep(LOOKUP_INTERVAL_SECONDS)

    async def look_up(self, resolver: Resolver) -> None:
        try:
            addresses = await resolver.addresses(self._dns_name.host)
        except Unavailable as error:
            self._metrics.looked_up(self._name, "failed")
            self._log_once(error.message)
            if not self._members:
                self._placeholder.update(replace(self._placeholder.engine, detail=error.message))
        else:
            self._metrics.looked_up(self._name, "answered")
            self.set_addresses(addresses)

    def set_addresses(self, addresses: Collection[str]) -> None:
        """Adds and removes members, so that there is one for each address, up to `max_members`; calls `on_change` if
        any was added or removed. Members that are removed finish their requests.
        """
        removed = [address for address in self._members if address not in addresses]
        new = sorted(address for address in addresses if address not in self._members)
        free = self._max_members - len(self._members) + len(removed)
        for address in removed:
            self._remove(address)
        for address in new[:free]:
            self._add(address)
        excess = len(new) - free
        self._log_once(f"{excess} addresses are ignored, max_endpoints is {self._max_members}" if excess > 0 else "")
        if removed or new[:free]:
            self._on_change()
        self._metrics.group_has(self._name, len(self._members), max(0, excess))

    def stop(self) -> None:
        """Stops watching the members, and removes the group's gauges. Requests in progress may still use members."""
        for member in self._members.values():
            member.tracked.stop()
        self._metrics.remove_group(self._name)

    def _add(self, address: str) -> None:
        used = {member.number for member in self._members.values()}
        number = next(number for number in range(self._max_members) if number not in used)
        endpoint = self._dns_name.endpoint(address)
        engine = self._new_member(number, endpoint)
        self._members[address] = _NumberedMember(number, self._track(engine))
        self._metrics.group_changed(self._name, "came")
        log.info("engine %s: %s has joined", engine.name, endpoint)

    def _new_member(self, number: int, endpoint: str) -> Engine:
        group, has_url = self._placeholder.engine, bool(self._placeholder.engine.url)
        return replace(
            group,
            name=f"{group.name}/{number}",
            group=group.name,
            endpoint=endpoint,
            url=f"http://{endpoint}{self._dns_name.path}" if has_url else "",
            ready=has_url,
            detail=NOT_REPORTED,
        )

    def _remove(self, address: str) -> None:
        tracked = self._members.pop(address).tracked
        tracked.state.retire()
        tracked.stop()
        self._metrics.group_changed(self._name, "went")
        engine, in_flight = tracked.state.engine, tracked.state.in_flight
        log.info("engine %s: %s has left, %d answers are in flight", engine.name, engine.endpoint, in_flight)

    def _log_once(self, problem: str) -> None:
        """Logs a problem when it begins or changes; an empty text ends it."""
        if problem and problem != self._logged_problem:
            log.warning("engines %s: %s; %d members", self._name, problem, len(self._members))
        self._logged_problem = problem

    @property
    def _name(self) -> str:
        return self._placeholder.engine.name


class DnsResolver:
    """Looks names up in DNS; /etc/hosts is not read. Implements `Resolver`."""

    def __init__(self, server: str = "") -> None:
        """Takes the name server's ADDRESS:PORT; if it is empty, those in /etc/resolv.conf are asked."""
        self._server = server
        self._resolver: NameServers | None = None

    async def addresses(self, host: str) -> frozenset[str]:
        """Returns the IPv4 addresses of `host`, or the IPv6 ones if it has none, so that a machine with both is listed
        once.

        Raises Unavailable if there is no answer within `LOOKUP_TIMEOUT_SECONDS`, no such name, or no address.
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
