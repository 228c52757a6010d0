"""A scripted DNS server, over UDP and, for long answers, over TCP."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

LONGEST = 512
"""Maximum size of an answer over UDP without the extension EDNS, in bytes."""


class DnsServer:
    def __init__(self) -> None:
        self.address = ""
        self.names: dict[str, Sequence[str]] = {}
        """IPv4 or IPv6 addresses by name, without the final dot."""
        self.silent = False
        """Whether the server ignores queries."""
        self.broken = False
        """Whether the server answers with SERVFAIL."""
        self.asked = 0

    def answer(self, wire: bytes, longest: int) -> bytes | None:
        self.asked += 1
        if self.silent:
            return None
        query = dns.message.from_wire(wire)
        answer = dns.message.make_response(query)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True)
        if self.broken:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.names:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            wanted = 4 if question.rdtype == dns.rdatatype.A else 6
            found = [address for address in self.names[name] if ip_address(address).version == wanted]
            if found:
                answer.answer.append(dns.rrset.from_text_list(question.name, 5, "IN", question.rdtype, found))
        if len(answer.to_wire()) > longest:
            answer.flags |= dns.flags.TC
            answer.answer.clear()
        return answer.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        answer = self._server.answer(data, LONGEST)
        if answer and self._transport:
            self._transport.sendto(answer, address)


@asynccontextmanager
async def running_dns() -> AsyncIterator[DnsServer]:
    server, loop = DnsServer(), asyncio.get_running_loop()

    async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = server.answer(await reader.readexactly(length), 65535)
        if answer:
            writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()

    tcp = await asyncio.start_server(over_tcp, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), ("127.0.0.1", port))
    server.address = f"127.0.0.1:{port}"
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()
