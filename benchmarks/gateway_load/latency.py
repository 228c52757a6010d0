"""What a request waits at a fixed rate, counted from when it should have gone: who falls behind cannot hide it."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.gateway_load.contenders import Contender
from benchmarks.gateway_load.conversations import with_model
from benchmarks.gateway_load.http_client import Answer, Connection, Target
from benchmarks.gateway_load.ticker import Ticker

CONNECTIONS = 128
PATIENCE = 10.0
"""Seconds after the last request in which the answers must have come."""
WARM_UP = 0.2
"""Share of the requests, at the start, that are not counted."""


@dataclass(frozen=True, slots=True)
class Waited:
    """At one rate, medians over the rounds; infinite where too few were answered."""

    p50_ms: float
    p99_ms: float
    failed: int


class _Asking:
    """One round: requests go when they are due, by any connection that is free, or wait for the next that is."""

    def __init__(self, connections: list[Connection], requests: list[bytes], count: int) -> None:
        self._free = deque(connections)
        self._requests = requests
        self._due: deque[float] = deque()
        self._sent = 0
        self._left = count
        self.waited: list[float] = []
        self.over = asyncio.Event()

    def due(self, moment: float) -> None:
        self._due.append(moment)
        self._go_on()

    def _go_on(self) -> None:
        while self._free and self._due:
            connection, moment = self._free.popleft(), self._due.popleft()
            answer = connection.begin(self._requests[self._sent % len(self._requests)])
            self._sent += 1
            answer.add_done_callback(lambda answer, c=connection, m=moment: self._answered(answer, c, m))  # type: ignore[misc]  # its defaults are what it is about

    def _answered(self, answer: "asyncio.Future[Answer]", connection: Connection, moment: float) -> None:
        now = time.monotonic()
        if not answer.cancelled() and not answer.exception() and answer.result().status == 200:
            self.waited.append(now - moment)
        self._left -= 1
        if not self._left:
            self.over.set()
        if connection.open:
            self._free.append(connection)
        self._go_on()


async def measure(
    contenders: Sequence[Contender], asked: list[dict[str, object]], rate: int, plan: tuple[int, float]
) -> dict[str, Waited]:
    """`plan`: how many rounds, and the seconds of each."""
    rounds, seconds = plan
    found: dict[str, list[Waited]] = {one.name: [] for one in contenders}
    for _ in range(rounds):
        for one in contenders:
            found[one.name].append(await ask_at(one.plain, with_model(asked, one.plain.model), rate, seconds))
            await one.come_to_rest()
    return {
        name: Waited(median(w.p50_ms for w in waited), median(w.p99_ms for w in waited), sum(w.failed for w in waited))
        for name, waited in found.items()
    }


async def ask_at(target: Target, bodies: list[bytes], rate: int, seconds: float) -> Waited:
    """One round. What is not answered in the end has waited for ever."""
    count = round(rate * seconds)
    connections = [await Connection.to(target.port) for _ in range(CONNECTIONS)]
    asking = _Asking(connections, [target.request(body) for body in bodies], count)
    try:
        with Ticker(rate, count, asking.due) as ticker:
            await asyncio.wait_for(ticker.over.wait(), seconds + PATIENCE)
            with suppress(TimeoutError):
                await asyncio.wait_for(asking.over.wait(), PATIENCE)
    finally:
        for connection in connections:
            connection.close()
    counted = asking.waited[int(len(asking.waited) * WARM_UP) :] + [float("inf")] * (count - len(asking.waited))
    p50, p99 = (1e3 * float(np.quantile(counted, share, method="higher")) for share in (0.5, 0.99))
    return Waited(p50, p99, count - len(asking.waited))
