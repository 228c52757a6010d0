"""Sends thousands of unknown model names and checks that they do not add series to the metrics."""

import asyncio
import json
import random
from dataclasses import dataclass

from pointsman_servicekit.metrics_page import MAX_AGE_SECONDS

from benchmarks.gateway_load.http_client import Connection, Target, get
from benchmarks.gateway_load.our_gateway import Gateway

CONNECTIONS = 32
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-/:@. üñ中"


@dataclass(frozen=True, slots=True)
class JunkResult:
    """The number of series in the gateway's metrics before and after."""

    names: int
    before: int
    after_first: int
    """Number of series after the first four names; the first error with each code adds a series."""
    after_all: int
    refused: int
    """Number of names that were answered with 404 or 400, as required."""
    grown_mb: float


async def measure(gateway: Gateway, names: int) -> JunkResult:
    before = await count_series(gateway)
    generator = random.Random(11)
    junk = ["".join(generator.choices(ALPHABET, k=generator.randrange(1, 60))) + str(n) for n in range(names)]
    # Some names have a form with a meaning: a path, an adapter's alias.
    junk = [("path:", "", "", "triage@")[number % 4] + name for number, name in enumerate(junk)]
    refused = await _ask(gateway, junk[:4])
    after_first, resident = await count_series(gateway), gateway.process.resident_mb()
    refused += await _ask(gateway, junk[4:])
    return JunkResult(
        names, before, after_first, await count_series(gateway), refused, gateway.process.resident_mb() - resident
    )


async def count_series(gateway: Gateway) -> int:
    """Counts the lines of `/metrics` without comments."""
    await asyncio.sleep(MAX_AGE_SECONDS)  # an earlier page is served no more
    text = (await get(gateway.http, "/metrics", timeout_s=20)).body.decode()
    return sum(1 for line in text.splitlines() if line and not line.startswith("#"))


async def _ask(gateway: Gateway, names: list[str]) -> int:
    left = iter(names)
    refused = 0

    async def ask() -> None:
        nonlocal refused
        connection = await Connection.to(gateway.http)
        for name in left:
            target = Target(gateway.http, name, gateway.headers)
            body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "metadata": {"source": name}}
            answer = await connection.ask(target.request(json.dumps(body).encode()))
            refused += answer.status in (400, 404)
        connection.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return refused
