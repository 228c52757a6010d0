"""The mock engine for paced streams and failures, a process with one port per behaviour.

    python -m benchmarks.gateway_load.upstream '{"at_once": 9001, "paced": 9002, "failing": 9003, "cutting": 9004}' \
      --chunks 100 --gap 0.02 0.04
"""

import argparse
import asyncio
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

from benchmarks.gateway_load import answers

JSON_HEAD = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
SLOWLY, SLOWLY_FACTOR = b" (slowly)", 4
"""A request whose body contains this text gets its paced chunks with gaps that are longer by this factor."""

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def json_response(status: bytes, body: bytes) -> bytes:
    return JSON_HEAD % (status, len(body), body)


def chunked(pieces: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


PLAIN = json_response(b"200 OK", answers.plain())
EVENTS = [answers.role(), *map(answers.content, answers.WORDS), answers.finish(), answers.usage(), answers.DONE]
STREAM = STREAM_HEAD + chunked(EVENTS) + LAST_CHUNK
ERROR = {"error": {"message": "out of memory", "type": "server_error"}}
FAILED = json_response(b"500 Internal Server Error", json.dumps(ERROR).encode())
FINE = json_response(b"200 OK", b"{}")


@dataclass(frozen=True, slots=True)
class Pace:
    """The number of chunks of a stream, and the range of the seconds between them (uniformly distributed)."""

    chunks: int
    min_gap: float
    max_gap: float


class MockEngine(asyncio.Protocol):
    """One connection to the mock engine. Every GET is answered with an empty object, for health checks."""

    def __init__(self, behaviour: str, pace: Pace) -> None:
        self._behaviour, self._pace = behaviour, pace
        self._left = 0
        self._due = 0.0
        self._gap_factor = 1
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting:
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if self._parser.get_method() == b"GET":
            self._transport.write(FINE)
        elif self._behaviour == "failing":
            self._transport.write(FAILED)
        elif self._behaviour == "cutting":
            self._transport.write(STREAM_HEAD + chunked(EVENTS[:4]))
            self._transport.close()
        elif not (b'"stream":true' in body or b'"stream": true' in body):
            self._transport.write(PLAIN)
        elif self._behaviour == "paced":
            self._begin(SLOWLY_FACTOR if SLOWLY in body else 1)
        else:
            self._transport.write(STREAM)

    def _begin(self, gap_factor: int) -> None:
        self._gap_factor = gap_factor
        self._transport.write(STREAM_HEAD + chunked([EVENTS[0]]))
        self._left = self._pace.chunks
        self._due = asyncio.get_running_loop().time()
        self._wait()

    def _wait(self) -> None:
        # Relative to when the last chunk was due, so that a late chunk does not delay the following ones.
        self._due += self._gap_factor * random.uniform(self._pace.min_gap, self._pace.max_gap)
        self._waiting = asyncio.get_running_loop().call_at(self._due, self._go_on)

    def _go_on(self) -> None:
        if self._left:
            self._left -= 1
            self._transport.write(TICK)
            self._wait()
        else:
            self._waiting = None
            self._transport.write(END)


TICK = chunked([answers.content(answers.TICK)])
END = chunked([answers.finish(), answers.usage(), answers.DONE]) + LAST_CHUNK


async def serve(ports: dict[str, int], pace: Pace) -> None:
    loop = asyncio.get_running_loop()
    for behaviour, port in ports.items():
        await loop.create_server(lambda which=behaviour: MockEngine(which, pace), "127.0.0.1", port, backlog=2048)  # type: ignore[misc]  # its default is what the loop gives it
    await asyncio.Event().wait()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("ports", type=json.loads)
    arguments.add_argument("--chunks", type=int, default=100)
    arguments.add_argument("--gap", type=float, nargs=2, default=(0.02, 0.04))
    given = arguments.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.ports, Pace(given.chunks, *given.gap)))
