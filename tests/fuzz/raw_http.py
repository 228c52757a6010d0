"""Malformed HTTP/1 as raw bytes: heads, lengths, chunks, pipelining and cut connections."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz.json_routes import ORIGINS
from tests.fuzz.mutations import change_bytes, in_pieces
from tests.fuzz.problems import Answer, Problem, problem_of
from tests.fuzz.rig import Rig, in_time

SILENCE_SECONDS = 0.5
CHAT = b'{"model": "scripted", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}'
METHODS = ("GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "PUT", "get", "PRI", "CONNECT", "A" * 300, "", "P OST")
TARGETS = (
    "/v1/chat/completions",
    "/v1/chat/completions",
    "/v1/messages",
    "/healthz",
    "/v1/models",
    "/metrics",
    "*",
    "",
    "/",
    "//",
    "/%00",
    "/../v1/models",
    "http://x/v1/models",
    "/console/api/login",
    "/v1/chat/completions?" + "a" * 9000,
    "/v1/models/%ff%fe",
    "/é",
)
VERSIONS = (
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "HTTP/9",
    "",
    "http/1.1",
    "HTTP/1.1 x",
)
LENGTHS = ("-1", "+5", "0x10", "5, 5", "5,6", "99999999999999999999", "1e3", "", " 7", "٣", "8388609")
ENCODINGS = ("chunked", "chunked, chunked", "gzip, chunked", "identity", "xchunked", "Chunked", "", "chunked;q=1")
ODD_HEADERS = (
    b"x: " + b"a" * 40_000,
    b": empty",
    b"a b: c",
    b"x\x00y: z",
    b" folded",
    b"x:\r y",
    b"host: a\r\nhost: b",
    b"expect: 100-continue",
    b"upgrade: h2c\r\nconnection: upgrade, http2-settings",
    b"connection: close",
    b"connection: keep-alive, te",
    b"te: trailers",
    b"content-encoding: br",
    b"authorization: Bearer x",
    b"trailer: authorization",
    b"x-request-timeout: inf",
    b"x: \xff\xfe",
    b"content-type: application/json; charset=utf-16",
    b"\x80: a",
)


@dataclass(frozen=True)
class RawCase:
    pieces: Sequence[bytes]
    shuts: bool
    """Whether the client closes its sending side after the last piece."""


class RawHttp:
    name, share, lanes = "raw_http", 0.1, 8

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def make(self, random: Random, marker: str) -> RawCase:
        data = b"".join(self._request(random) for _ in range(random.choice((1, 1, 1, 2, 5))))
        if random.random() < 0.4:
            data = change_bytes(random, data)
        return RawCase(in_pieces(random, data), random.random() < 0.9)

    def _request(self, random: Random) -> bytes:
        target = random.choice(TARGETS)
        lines = [f"{random.choice(METHODS)} {target} {random.choice(VERSIONS)}".encode(), b"host: gateway"]
        lines += [b"content-type: application/json", b"x-request-timeout: 3"]
        if random.random() < 0.7:
            lines.append(b"authorization: Bearer KEY")
        if random.random() < 0.3:
            lines.append(random.choice(ODD_HEADERS))
        if random.random() < 0.2:
            lines += [b"x-pointsman-console: 1", b"origin: " + random.choice(ORIGINS).encode()]
        body = CHAT
        if random.random() < 0.3:
            lines.append(b"transfer-encoding: " + random.choice(ENCODINGS).encode())
            body = self._chunked(random)
        if random.random() < 0.6:
            lines.append(b"content-length: %d" % len(CHAT))
        elif random.random() < 0.5:
            lines.append(b"content-length: " + random.choice(LENGTHS).encode())
        return b"\r\n".join([*lines, b"", b""]) + body

    def _chunked(self, random: Random) -> bytes:
        sizes = (b"%x", b"%X;a=b", b"0%x", b" %x", b"%x ", b"-%x", b"0x%x", b"%x" + b";" * 5000)
        chunks = [
            random.choice(sizes[:1] * 9 + sizes) % len(piece) + b"\r\n" + piece + b"\r\n"
            for piece in in_pieces(random, CHAT)
        ]
        ends = (
            b"0\r\n\r\n",
            b"0\r\n\r\n",
            b"0\r\nx: y\r\n\r\n",
            b"0\r\n",
            b"",
            b"00000\r\n\r\n",
            b"0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        )
        return b"".join(chunks) + random.choice(ends)

    async def carry_out(self, case: RawCase) -> Problem | None:
        answer = await in_time(self._rig.gateway.pid, self._exchange(case))
        return None if answer is None else problem_of("raw HTTP", answer, may_fail=False)

    async def _exchange(self, case: RawCase) -> Answer | None:
        """Returns the worst answer; None if the gateway has closed the connection without one."""
        key = self._rig.keys["plain"].encode()
        host, _, port = self._rig.gateway.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        received = b""
        try:
            with contextlib.suppress(OSError):  # the gateway has closed the connection
                for piece in b"\0\0".join(case.pieces).replace(b"KEY", key).split(b"\0\0"):
                    writer.write(piece)
                    await writer.drain()
                if case.shuts:
                    writer.write_eof()
                received = await self._read(reader)
        finally:
            writer.transport.abort()
        statuses = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]
        if not statuses:
            return None
        worst = max(statuses)
        body = received[received.find(b"HTTP/1.1 %d" % worst) :]
        head, _, content = body.partition(b"\r\n\r\n")
        kinds = [line[14:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-type: ")]
        return Answer(worst, kinds[0].decode() if kinds else "", content[: content.find(b"\nHTTP/1.1") % (1 << 30)])

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """Reads to the end of the connection, or until the gateway sends nothing more because it waits for the rest of
        the request.
        """
        received = b""
        with contextlib.suppress(TimeoutError):
            while piece := await asyncio.wait_for(reader.read(65536), SILENCE_SECONDS):
                received += piece
        return received
