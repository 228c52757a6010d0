"""Counts the bytecode instructions of a request, a figure that does not depend on the machine's load."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice

from benchmarks.gateway_load import instruction_counter
from benchmarks.gateway_load.http_client import Connection, Target
from benchmarks.gateway_load.machine import CannotMeasure, Cores
from benchmarks.gateway_load.our_gateway import Gateway, bearer, start_gateway
from benchmarks.gateway_load.processes import Processes
from benchmarks.gateway_load.report import table
from benchmarks.gateway_load.request_bodies import encode_bodies, read_texts, request_bodies
from benchmarks.gateway_load.upstreams import Upstreams

CONNECTIONS = 16
REQUESTS = 800
TIMED_TURNS = 4
NEW_JWT = "jwt_first_use"
MAX_WAIT_SECONDS = 20.0
"""Time limit for writing the results."""
MIN_CALLS_PER_REQUEST = 0.5
"""Functions that are called less often than this per request are background work and are not counted."""
COUNTED_FILES = ("/pointsman_", "<string>", "/site-packages/jwt/", "/site-packages/cryptography/")
"""Parts of file names; "<string>" is reported for generated constructors of dataclasses."""
MIN_SHOWN = 20.0
"""Components with fewer instructions than this, for every kind of request, are added up in one row."""


@dataclass(frozen=True, slots=True)
class InstructionCount:
    """Averages per request."""

    instructions: float
    calls: float
    microseconds: float
    """CPU time of the gateway's process per request, measured without counting. It depends on the machine."""
    by_file: Counter[str]


async def count(processes: Processes, cores: Cores, upstreams: Upstreams) -> dict[str, InstructionCount]:
    """Counts requests of several kinds: with a named path (chat completion and Messages, plain and streamed),
    classified ones, and those with a JSON Web Token instead of a key (the same token in all, and a new one in each).

    Raises CannotMeasure.
    """
    file = processes.folder / "counted.json"
    program = (instruction_counter.__file__, str(file))
    gateway = await start_gateway(processes, cores, upstreams, program)
    bodies = list(request_bodies(read_texts().test, REQUESTS))
    path = gateway.path("fast")
    messages = replace(path, path="/v1/messages")
    targets = {"named": (path, False), "stream": (path, True), "auto": (gateway.auto, False)}
    targets |= {"messages": (messages, False), "messages_stream": (messages, True)}
    targets |= {name: (replace(path, headers=bearer(gateway.issuer.new_token())), False) for name in ("jwt", NEW_JWT)}
    found = {}
    for name, (target, stream) in targets.items():
        encoded = encode_bodies(bodies, target.model, stream=stream)
        ask = partial(_ask_all, target, encoded, gateway.issuer.new_token if name == NEW_JWT else None)
        await ask()  # warm-up: fills caches and opens connections
        before = gateway.process.cpu_seconds()
        for _ in range(TIMED_TURNS):
            await ask()
        seconds = gateway.process.cpu_seconds() - before
        await asyncio.sleep(1)
        os.kill(gateway.process.pid, signal.SIGUSR2)
        await ask()
        await asyncio.sleep(1)
        os.kill(gateway.process.pid, signal.SIGUSR2)
        found[name] = await _read(gateway, processes, 1e6 * seconds / (TIMED_TURNS * REQUESTS))
    return found


async def _ask_all(target: Target, bodies: list[bytes], new_token: Callable[[], str] | None) -> None:
    """Sends each body, with a new token if `new_token` is given."""
    targets = (replace(target, headers=bearer(new_token())) if new_token else target for _ in bodies)
    await _ask(target, [one.request(body) for one, body in zip(targets, bodies, strict=True)])


async def _ask(target: Target, requests: list[bytes]) -> None:
    connections = [await Connection.to(target.port) for _ in range(CONNECTIONS)]

    async def ask(number: int) -> None:
        for request in islice(cycle(requests), number, REQUESTS, CONNECTIONS):
            answer = await connections[number].ask(request)
            if answer.status != 200:
                raise CannotMeasure(f"the gateway answers {answer.status}: {answer.body[:200]!r}")

    try:
        await asyncio.gather(*map(ask, range(CONNECTIONS)))
    finally:
        for connection in connections:
            connection.close()


async def _read(gateway: Gateway, processes: Processes, microseconds: float) -> InstructionCount:
    file = processes.folder / "counted.json"
    await gateway.process.until_written(file, MAX_WAIT_SECONDS)
    rows = json.loads(file.read_text())
    file.unlink()
    own = [
        row
        for row in rows
        if row[3] >= MIN_CALLS_PER_REQUEST * REQUESTS and any(part in row[0] for part in COUNTED_FILES)
    ]
    by_file: Counter[str] = Counter()
    for name, _, instructions, _ in own:
        by_file[name.rpartition("/src/")[2]] += instructions / REQUESTS
    instructions, calls = (sum(row[column] for row in own) / REQUESTS for column in (2, 3))
    return InstructionCount(instructions, calls, microseconds, by_file)


def component_rows(found: Mapping[str, InstructionCount]) -> list[list[str]]:
    """Returns one row for each folder of the gateway and each other package, sorted by the first kind of request, the
    largest first.
    """
    counts = {name: Counter[str]() for name in found}
    for name, one in found.items():
        for file, instructions in one.by_file.items():
            counts[name][_component(file)] += instructions
    first = next(iter(counts.values()))
    components = sorted({each for one in counts.values() for each in one}, key=lambda each: (-first[each], each))
    shown = [each for each in components if max(one[each] for one in counts.values()) >= MIN_SHOWN]
    rest = {name: sum(one.values()) - sum(one[each] for each in shown) for name, one in counts.items()}
    rows = [[each, *(f"{one[each]:,.0f}" for one in counts.values())] for each in shown]
    return [*rows, ["others", *(f"{one:,.0f}" for one in rest.values())]]


def _component(file: str) -> str:
    """Returns a file's component: `pointsman_gateway/http/server.py` belongs to `http`, `pointsman_gateway/breaker.py`
    to `breaker`.
    """
    package, _, rest = file.rpartition("site-packages/")[2].partition("/")
    if package != "pointsman_gateway":
        return package
    return rest.partition("/")[0].removesuffix(".py")


def format_report(found: dict[str, InstructionCount]) -> str:
    """Returns a table, with one JSON object as its last line."""
    lines = [f"bytecode instructions (Python {sys.version.split()[0]}) per request in this project and PyJWT:"]
    for name, counted in found.items():
        lines.append(
            f"  {name}: {counted.instructions:.0f} in {counted.calls:.0f} calls; {counted.microseconds:.0f} us"
        )
    passed = {name: sum(file.startswith("pointsman_gateway/") for file in one.by_file) for name, one in found.items()}
    lines.append(f"gateway files per request: {', '.join(f'{name} {n}' for name, n in passed.items())}")
    lines.append(table(["component", *found], component_rows(found)))
    result = {f"instructions_{name}": round(counted.instructions) for name, counted in found.items()}
    result |= {f"us_{name}": round(counted.microseconds) for name, counted in found.items()}
    result |= {f"files_{name}": number for name, number in passed.items()}
    return "\n".join([*lines, json.dumps(result)])
