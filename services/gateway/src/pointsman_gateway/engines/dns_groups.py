"""A group of engines that one name of DNS leads to: who comes is asked too, who goes is asked nothing new."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import dns.asyncresolver
import dns.exception
import dns.resolver
from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.models_file import DnsName
from pointsman_gateway.engines.engine_state import NO_WORD, Cell, Engine
from pointsman_gateway.engines.metrics import EngineMetrics

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two questions. Not by the records' times to live: whoever keeps answers for us knows when to ask."""


class Resolver(Protocol):
    async def addresses(self, host: str) -> frozenset[str]:
        """Where `host` leads to, one at least. Raises Unavailable."""
        ...


class Seat(Protocol):
    """A member that is followed."""

    @property
    def cell(self) -> Cell: ...

    def leave(self) -> None:
        """It is followed no more."""
        ...


@dataclass(frozen=True, slots=True)
class _Member:
    number: int
    seat: Seat


class Group:
    """What is known of a member stays as long as DNS names its address.

    Where DNS fails, or names none, the members stay: an engine that is really gone is found out by its breaker, and a
    wrong answer must not take away all that serve.
    """

    def __init__(
        self,
        empty: Engine,
        where: DnsName,
        most: int,
        seat: Callable[[Engine], Seat],
        changed: Callable[[], None],
        metrics: EngineMetrics,
    ) -> None:
        """`empty` stands for the group while it has no member, and members are made from it; `most`: of them.

        `seat` begins to follow a member; `changed` is called when `cells` are others.
        """
        self._empty = Cell(empty)
        self._where = where
        self._most = most
        self._seat = seat
        self._changed = changed
        self._metrics = metrics
        self._members: dict[str, _Member] = {}
        """By address."""
        self._told = ""
        metrics.group_has(empty.name, 0, 0)

    @property
    def cells(self) -> Sequence[Cell]:
        """Of the members, in the order of their numbers; a cell that is not ready where there is none."""
        members = sorted(self._members.values(), key=lambda member: member.number)
        return [member.seat.cell for member in members] or [self._empty]

    async def follow(self, resolver: Resolver) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look(resolver)
            except Exception:  # whatever it is, the members serve on, and the next look may do better
                log.exception("engines %s: a look at DNS broke off", self._name)
            await asyncio.sleep(EVERY)

    async def look(self, resolver: Resolver) -> None:
        """Asks once."""
        try:
            addresses = await resolver.addresses(self._where.host)
        except Unavailable as error:
            self._metrics.looked_up(self._name, "failed")
            self._tell(error.message)
            if not self._members:
                self._empty.hear(replace(self._empty.engine, detail=error.message))
        else:
            self._metrics.looked_up(self._name, "answered")
            self.take(addresses)

    def take(self, addresses: Collection[str]) -> None:
        """The name leads to these now."""
        gone = [address for address in self._members if address not in addresses]
        new = sorted(address for address in addresses if address not in self._members)
        room = self._most - len(self._members) + len(gone)
        for address in gone:
            self._part_with(address)
        for address in new[:room]:
            self._welcome(address)
        left_out = len(new) - room
        self._tell(f"{left_out} addresses are left out, {self._most} are the most" if left_out > 0 else "")
        if gone or new[:room]:
            self._changed()
        self._metrics.group_has(self._name, len(self._members), max(0, left_out))

    def leave(self) -> None:
        """All of them are followed no more; requests that began while they were may still ask them."""
        for member in self._members.values():
            member.seat.leave()
        self._metrics.group_is_gone(self._name)

    def _welcome(self, address: str) -> None:
        taken = {member.number for member in self._members.values()}
        number = next(number for number in range(self._most) if number not in taken)
        place = self._where.endpoint(address)
        engine = self._member(number, place)
        self._members[address] = _Member(number, self._seat(engine))
        self._metrics.group_changed(self._name, "came")
        log.info("engine %s: %s has come", engine.name, place)

    def _member(self, number: int, place: str) -> Engine:
        group, is_plain = self._empty.engine, bool(self._empty.engine.url)
        return replace(
            group,
            name=f"{group.name}/{number}",
            group=group.name,
            place=place,
            url=f"http://{place}{self._where.path}" if is_plain else "",
            ready=is_plain,
            detail=NO_WORD,
        )

    def _part_with(self, address: str) -> None:
        seat = self._members.pop(address).seat
        seat.cell.leave()
        seat.leave()
        self._metrics.group_changed(self._name, "went")
        engine = seat.cell.engine
        log.info("engine %s: %s has gone, %d answers end", engine.name, engine.place, seat.cell.in_flight)

    def _tell(self, problem: str) -> None:
        """Once, until it is over or another."""
        if problem and problem != self._told:
            log.warning("engines %s: %s; %d members", self._name, problem, len(self._members))
        self._told = problem

    @property
    def _name(self) -> str:
        return self._empty.engine.name


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
