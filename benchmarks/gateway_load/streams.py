"""256 paced streams at once: what comes a second, when the first chunk comes, and whether any of them stalls."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from benchmarks.gateway_load.answers import DONE, TICK
from benchmarks.gateway_load.contenders import Contender
from benchmarks.gateway_load.conversations import with_model
from benchmarks.gateway_load.http_client import Connection
from benchmarks.gateway_load.upstream import Pace

AT_ONCE = 256
STALL = 1.0
"""Seconds without a chunk."""
LONGEST = 20.0
"""Seconds after which a round is broken off: who needs them stalls."""
WORD = TICK.strip().encode()
END = DONE.strip()


@dataclass(slots=True)
class Stream:
    """What came of one."""

    begun: float
    last: float
    first: float | None = None
    ticks: int = 0
    longest_gap: float = 0.0
    complete: bool = False
    status: int = 200
    rest: bytes = field(default=b"", repr=False)

    def arrived(self, data: bytes) -> None:
        """A chunk's word may be cut in two by the transport."""
        held = self.rest + data
        ticks = held.count(WORD)
        if ticks:
            now = time.monotonic()
            self.first = self.first or now
            self.longest_gap = max(self.longest_gap, now - self.last)
            self.last = now
            self.ticks += ticks
            held = held[held.rindex(WORD) + len(WORD) :]
        self.complete = self.complete or END in held
        self.rest = held[-len(END) :]

    def ended(self, now: float) -> None:
        """One that was broken off was silent until now."""
        if not self.complete:
            self.longest_gap = max(self.longest_gap, now - self.last)


@dataclass(frozen=True, slots=True)
class Streamed:
    """Of all streams of a round; medians over the rounds, the longest gap and the counts over all of them."""

    chunks_per_second: float
    first_ms: float
    longest_gap: float
    stalled: int
    incomplete: int
    refused: int
    """Of the incomplete ones, those that were answered with another status than 200."""


async def measure(
    contenders: Sequence[Contender], asked: list[dict[str, object]], pace: Pace, rounds: int
) -> dict[str, Streamed]:
    found: dict[str, list[Streamed]] = {one.name: [] for one in contenders}
    for _ in range(rounds):
        for one in contenders:
            found[one.name].append(await _round(one, asked, pace))
            await one.come_to_rest()
    return {name: _over(each) for name, each in found.items()}


async def _round(one: Contender, asked: list[dict[str, object]], pace: Pace) -> Streamed:
    requests = [one.paced.request(body) for body in with_model(asked[:AT_ONCE], one.paced.model, stream=True)]
    connections = [await Connection.to(one.paced.port) for _ in range(AT_ONCE)]
    begun = time.monotonic()
    streams = [Stream(begun, begun) for _ in connections]
    every = zip(connections, requests, streams, strict=False)
    answers = [_ask(*each) for each in every]
    with suppress(TimeoutError):
        async with asyncio.timeout(LONGEST):
            await asyncio.gather(*answers, return_exceptions=True)
    now = time.monotonic()
    for connection, stream in zip(connections, streams, strict=True):
        stream.ended(now)
        connection.close()
    return _judged(streams, pace)


async def _ask(connection: Connection, request: bytes, stream: Stream) -> None:
    stream.status = (await connection.ask(request, stream.arrived)).status


def _judged(streams: list[Stream], pace: Pace) -> Streamed:
    begun, last = streams[0].begun, max(stream.last for stream in streams)
    firsts = [(stream.first or float("inf")) - stream.begun for stream in streams]
    return Streamed(
        chunks_per_second=sum(stream.ticks for stream in streams) / max(last - begun, 1e-9),
        first_ms=1e3 * median(firsts),
        longest_gap=max(stream.longest_gap for stream in streams),
        stalled=sum(stream.longest_gap > STALL for stream in streams),
        incomplete=sum(not stream.complete or stream.ticks != pace.chunks for stream in streams),
        refused=sum(stream.status != 200 for stream in streams),
    )


def _over(rounds: list[Streamed]) -> Streamed:
    return Streamed(
        chunks_per_second=median(one.chunks_per_second for one in rounds),
        first_ms=median(one.first_ms for one in rounds),
        longest_gap=max(one.longest_gap for one in rounds),
        stalled=sum(one.stalled for one in rounds),
        incomplete=sum(one.incomplete for one in rounds),
        refused=sum(one.refused for one in rounds),
    )
