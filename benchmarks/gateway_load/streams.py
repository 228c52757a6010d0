"""Measures concurrent paced streams: chunks per second, time to the first chunk, and stalls."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from benchmarks.gateway_load.answers import DONE, TICK
from benchmarks.gateway_load.contenders import Contender
from benchmarks.gateway_load.http_client import Connection
from benchmarks.gateway_load.request_bodies import encode_bodies
from benchmarks.gateway_load.upstream import SLOWLY, SLOWLY_FACTOR, Pace

STALL_SECONDS = 1.0
"""A longer gap between chunks is a stall."""
WORD = TICK.strip().encode()
END = DONE.strip()


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """How many streams run at once, and whether the engine answers each of them at a quarter of its speed."""

    count: int
    slowly: bool
    max_seconds: float
    """Time limit of a round in seconds; a longer one is aborted, and its open streams count as stalled."""

    def encode_requests(self, one: Contender, bodies: Sequence[dict[str, object]]) -> list[bytes]:
        """Returns a request for each stream; bodies are used again if there are too few."""
        encoded = encode_bodies([*bodies[: self.count]], one.paced.model, stream=True)
        if self.slowly:
            encoded = [body.replace(b'"}],', SLOWLY + b'"}],', 1) for body in encoded]
        return [one.paced.request(encoded[number % len(encoded)]) for number in range(self.count)]


STREAMS_256 = StreamLoad(256, slowly=False, max_seconds=20.0)
STREAMS_1000 = StreamLoad(1000, slowly=True, max_seconds=20.0 * SLOWLY_FACTOR / 2)


@dataclass(slots=True)
class Stream:
    """The progress of one stream."""

    started: float
    last: float
    first: float | None = None
    ticks: int = 0
    longest_gap: float = 0.0
    complete: bool = False
    status: int = 200
    rest: bytes = field(default=b"", repr=False)

    def receive(self, data: bytes) -> None:
        """Counts chunks by their text, which the transport may have split."""
        buffer = self.rest + data
        ticks = buffer.count(WORD)
        if ticks:
            now = time.monotonic()
            self.first = self.first or now
            self.longest_gap = max(self.longest_gap, now - self.last)
            self.last = now
            self.ticks += ticks
            buffer = buffer[buffer.rindex(WORD) + len(WORD) :]
        self.complete = self.complete or END in buffer
        self.rest = buffer[-len(END) :]

    def finish(self, now: float) -> None:
        """For an incomplete stream, counts the silence until `now` as a gap."""
        if not self.complete:
            self.longest_gap = max(self.longest_gap, now - self.last)


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """Results over all streams: medians over the rounds, and the longest gap and the counts of all rounds together."""

    chunks_per_second: float
    first_ms: float
    longest_gap: float
    stalled: int
    incomplete: int
    refused: int
    """Number of incomplete streams with another status than 200."""


async def measure(
    contenders: Sequence[Contender], bodies: list[dict[str, object]], pace: Pace, load: StreamLoad, rounds: int
) -> dict[str, StreamStatistics]:
    found: dict[str, list[StreamStatistics]] = {one.name: [] for one in contenders}
    for _ in range(rounds):
        for one in contenders:
            found[one.name].append(await run_round(one, bodies, pace, load))
            await one.wait_until_idle()
    return {name: _median_over(each) for name, each in found.items()}


async def run_round(one: Contender, bodies: list[dict[str, object]], pace: Pace, load: StreamLoad) -> StreamStatistics:
    """Runs all streams of `load` at once through one contender, up to the end of the last one."""
    requests = load.encode_requests(one, bodies)
    connections = [await Connection.to(one.paced.port) for _ in requests]
    started = time.monotonic()
    streams = [Stream(started, started) for _ in connections]
    every = zip(connections, requests, streams, strict=False)
    answers = [_ask(*each) for each in every]
    with suppress(TimeoutError):
        async with asyncio.timeout(load.max_seconds):
            await asyncio.gather(*answers, return_exceptions=True)
    now = time.monotonic()
    for connection, stream in zip(connections, streams, strict=True):
        stream.finish(now)
        connection.close()
    return _summarize(streams, pace)


async def _ask(connection: Connection, request: bytes, stream: Stream) -> None:
    stream.status = (await connection.ask(request, stream.receive)).status


def _summarize(streams: list[Stream], pace: Pace) -> StreamStatistics:
    started, last = streams[0].started, max(stream.last for stream in streams)
    firsts = [(stream.first or float("inf")) - stream.started for stream in streams]
    return StreamStatistics(
        chunks_per_second=sum(stream.ticks for stream in streams) / max(last - started, 1e-9),
        first_ms=1e3 * median(firsts),
        longest_gap=max(stream.longest_gap for stream in streams),
        stalled=sum(stream.longest_gap > STALL_SECONDS for stream in streams),
        incomplete=sum(not stream.complete or stream.ticks != pace.chunks for stream in streams),
        refused=sum(stream.status != 200 for stream in streams),
    )


def _median_over(rounds: list[StreamStatistics]) -> StreamStatistics:
    return StreamStatistics(
        chunks_per_second=median(one.chunks_per_second for one in rounds),
        first_ms=median(one.first_ms for one in rounds),
        longest_gap=max(one.longest_gap for one in rounds),
        stalled=sum(one.stalled for one in rounds),
        incomplete=sum(one.incomplete for one in rounds),
        refused=sum(one.refused for one in rounds),
    )
