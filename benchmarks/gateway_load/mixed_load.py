"""The load of the soak test: plain answers, streams, disconnecting clients, failing engines, and gRPC calls."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.gateway_load.answers import DONE, TICK
from benchmarks.gateway_load.http_client import Broken, Connection, Target
from benchmarks.gateway_load.mixed_calls import PATHS, MixedGrpcCalls, expected
from benchmarks.gateway_load.our_gateway import Gateway
from benchmarks.gateway_load.request_bodies import encode_bodies, read_texts, request_bodies
from benchmarks.gateway_load.upstream import Pace

PACE = Pace(chunks=20, min_gap=0.005, max_gap=0.015)
MIX = {
    "plain": 40, "auto": 13, "stream": 15, "cancelled": 8, "failing": 4, "cut": 5,
    "call": 6, "call streamed": 5, "call cancelled": 2, "call failing": 2,
}  # fmt: skip
"""By kind, the percentage of the requests."""
MAX_CONCURRENCY = 200
BODY_COUNT = 512
MAX_WAIT_SECONDS = 20.0


@dataclass(slots=True)
class MixedLoad:
    """Starts a request at every tick, unless MAX_CONCURRENCY are pending; then the tick is counted as skipped."""

    gateway: Gateway
    requests: dict[str, tuple[Target, list[bytes]]]
    calls: MixedGrpcCalls
    outcomes: Counter[str] = field(default_factory=Counter)
    free: list[Connection] = field(default_factory=list)
    busy: set["asyncio.Task[None]"] = field(default_factory=set)
    generator: random.Random = field(default_factory=lambda: random.Random(5))

    def on_tick(self, moment: float) -> None:
        if len(self.busy) >= MAX_CONCURRENCY:
            self.outcomes["skipped"] += 1
            return
        kind = self.generator.choices(list(MIX), list(MIX.values()))[0]
        self.start(kind)

    def start(self, kind: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._ask(kind))
        self.busy.add(task)
        task.add_done_callback(self.busy.discard)
        return task

    async def close(self) -> None:
        """Waits for pending requests and closes all connections."""
        if self.busy:
            await asyncio.wait(self.busy, timeout=MAX_WAIT_SECONDS)
        for connection in self.free:
            connection.close()
        await self.calls.close()

    async def _ask(self, kind: str) -> None:
        outcome = await (self._call(kind) if kind in PATHS else self._request(kind))
        self.outcomes[f"{kind} as expected" if EXPECTED[kind](outcome) else f"{kind}: {outcome[:120]}"] += 1

    async def _call(self, kind: str) -> str:
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS + 1):
                return await self.calls.ask(kind)
        except TimeoutError:
            return "timeout"

    async def _request(self, kind: str) -> str:
        target, bodies = self.requests[kind]
        request = target.request(self.generator.choice(bodies))
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                connection = self.free.pop() if self.free else await Connection.to(target.port)
                outcome = await (_cancel if kind == "cancelled" else _read)(connection, request)
            if connection.open and len(self.free) < MAX_CONCURRENCY and kind != "cancelled":
                self.free.append(connection)
            else:
                connection.close()
        except (Broken, OSError, TimeoutError) as error:
            outcome = f"{type(error).__name__} {error}"
        return outcome


EXPECTED: dict[str, Callable[[str], bool]] = {
    "plain": lambda outcome: outcome == "200",
    "auto": lambda outcome: outcome == "200",
    "stream": lambda outcome: outcome == f"200 stream of {PACE.chunks}, done",
    "cancelled": lambda outcome: outcome == "disconnected",
    "failing": lambda outcome: outcome.startswith("503"),
    "cut": lambda outcome: outcome.startswith("503") or outcome.endswith("error"),
    **expected(PACE.chunks),
}
"""By kind, a check of the outcome. A failing or disconnecting engine must lead to an error, not to a normal end."""


async def _read(connection: Connection, request: bytes) -> str:
    answer = await connection.ask(request)
    if answer.status != 200 or not answer.body.startswith(b"data:"):
        return str(answer.status)
    ended = "done" if DONE.strip() in answer.body else "error" if b'"error"' in answer.body else "cut"
    return f"200 stream of {answer.body.count(TICK.strip().encode())}, {ended}"


async def _cancel(connection: Connection, request: bytes) -> str:
    """Disconnects at the first chunk."""
    first = asyncio.Event()
    answer = connection.begin(request, lambda data: first.set() if TICK.strip().encode() in data else None)
    answer.add_done_callback(lambda _: first.set())
    await first.wait()
    outcome = "already answered" if answer.done() else "disconnected"
    connection.close()
    answer.cancel()
    return outcome


def mixed_load(gateway: Gateway) -> MixedLoad:
    bodies = list(request_bodies(read_texts().test, BODY_COUNT))
    return MixedLoad(gateway, _requests(gateway, bodies), MixedGrpcCalls(gateway, bodies, MAX_WAIT_SECONDS))


def _requests(gateway: Gateway, bodies: list[dict[str, object]]) -> dict[str, tuple[Target, list[bytes]]]:
    targets = {
        "plain": gateway.path("fast"),
        "auto": gateway.auto,
        "stream": gateway.path("paced"),
        "cancelled": gateway.path("paced"),
        "failing": gateway.path("failing"),
        "cut": gateway.path("cutting"),
    }
    streamed = ("stream", "cancelled", "cut")
    return {kind: (to, encode_bodies(bodies, to.model, stream=kind in streamed)) for kind, to in targets.items()}
