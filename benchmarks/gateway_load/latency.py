"""Measures latency at a fixed request rate, from the time at which each request was due (no coordinated omission)."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.gateway_load.contenders import Contender
from benchmarks.gateway_load.http_client import Answer, Connection, Target
from benchmarks.gateway_load.request_bodies import encode_bodies
from benchmarks.gateway_load.ticker import Ticker

CONNECTIONS = 128
MAX_WAIT_SECONDS = 10.0
"""How long to wait for answers after the last request."""
WARM_UP = 0.2
"""Share of the requests, at the start, that are not counted."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over the rounds at one rate; infinite if too few requests were answered."""

    p50_ms: float
    p99_ms: float
    failed: int


class _FixedRateRound:
    """One round. A request is sent when it is due, or as soon as a connection is free."""

    def __init__(self, connections: list[Connection], requests: list[bytes], count: int) -> None:
        self._free = deque(connections)
        self._requests = requests
        self._due: deque[float] = deque()
        self._sent = 0
        self._left = count
        self.waited: list[float] = []
        self.finished = asyncio.Event()

    def on_tick(self, moment: float) -> None:
        self._due.append(moment)
        self._send_due()

    def _send_due(self) -> None:
        while self._free and self._due:
            connection, moment = self._free.popleft(), self._due.popleft()
            answer = connection.begin(self._requests[self._sent % len(self._requests)])
            self._sent += 1
            answer.add_done_callback(lambda answer, c=connection, m=moment: self._on_answer(answer, c, m))  # type: ignore[misc]  # its defaults are what it is about

    def _on_answer(self, answer: "asyncio.Future[Answer]", connection: Connection, moment: float) -> None:
        now = time.monotonic()
        if not answer.cancelled() and not answer.exception() and answer.result().status == 200:
            self.waited.append(now - moment)
        self._left -= 1
        if not self._left:
            self.finished.set()
        if connection.open:
            self._free.append(connection)
        self._send_due()


async def measure(
    contenders: Sequence[Contender], bodies: list[dict[str, object]], rate: int, plan: tuple[int, float]
) -> dict[str, Latency]:
    """Measures each contender at this rate. `plan` is the number of rounds and the seconds of each."""
    rounds, seconds = plan
    found: dict[str, list[Latency]] = {one.name: [] for one in contenders}
    for _ in range(rounds):
        for one in contenders:
            found[one.name].append(await send_at_rate(one.plain, encode_bodies(bodies, one.plain.model), rate, seconds))
            await one.wait_until_idle()
    return {
        name: Latency(median(w.p50_ms for w in waited), median(w.p99_ms for w in waited), sum(w.failed for w in waited))
        for name, waited in found.items()
    }


async def send_at_rate(target: Target, bodies: list[bytes], rate: int, seconds: float) -> Latency:
    """Runs one round. The latency of an unanswered request counts as infinite."""
    count = round(rate * seconds)
    connections = [await Connection.to(target.port) for _ in range(CONNECTIONS)]
    sender = _FixedRateRound(connections, [target.request(body) for body in bodies], count)
    try:
        with Ticker(rate, count, sender.on_tick) as ticker:
            await asyncio.wait_for(ticker.finished.wait(), seconds + MAX_WAIT_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(sender.finished.wait(), MAX_WAIT_SECONDS)
    finally:
        for connection in connections:
            connection.close()
    counted = sender.waited[int(len(sender.waited) * WARM_UP) :] + [float("inf")] * (count - len(sender.waited))
    p50, p99 = (1e3 * float(np.quantile(counted, share, method="higher")) for share in (0.5, 0.99))
    return Latency(p50, p99, count - len(sender.waited))
