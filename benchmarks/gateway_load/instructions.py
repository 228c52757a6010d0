"""Counts the bytecode instructions of a request, a figure that does not depend on the machine's load."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import cycle, islice

from benchmarks.gateway_load import instruction_counter
from benchmarks.gateway_load.http_client import Connection, Target
from benchmarks.gateway_load.machine import CannotMeasure, Cores
from benchmarks.gateway_load.our_gateway import Gateway, start_gateway
from benchmarks.gateway_load.processes import Processes
from benchmarks.gateway_load.request_bodies import encode_bodies, read_texts, request_bodies
from benchmarks.gateway_load.upstreams import Upstreams

CONNECTIONS = 16
REQUESTS = 800
MAX_WAIT_SECONDS = 20.0
"""How long writing the results may take."""
MIN_CALLS_PER_REQUEST = 0.5
"""Functions that are called less often than this per request are background work and are not counted."""
GENERATED_FILE = "<string>"
"""The file name that Python reports for generated constructors of dataclasses."""
MAX_ROWS = 25


@dataclass(frozen=True, slots=True)
class InstructionCount:
    """Averages per request."""

    instructions: float
    calls: float
    by_file: Counter[str]


async def count(processes: Processes, cores: Cores, upstreams: Upstreams) -> dict[str, InstructionCount]:
    """Counts requests that name their path (chat completion and Messages, whole and streamed), and classified ones.

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
    found = {}
    for name, (target, stream) in targets.items():
        requests = [target.request(body) for body in encode_bodies(bodies, target.model, stream=stream)]
        await _ask(target, requests)  # warm-up: fills caches and opens connections
        await asyncio.sleep(1)
        os.kill(gateway.process.pid, signal.SIGUSR2)
        await _ask(target, requests)
        await asyncio.sleep(1)
        os.kill(gateway.process.pid, signal.SIGUSR2)
        found[name] = await _read(gateway, processes)
    return found


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


async def _read(gateway: Gateway, processes: Processes) -> InstructionCount:
    file = processes.folder / "counted.json"
    await gateway.process.until_written(file, MAX_WAIT_SECONDS)
    rows = json.loads(file.read_text())
    file.unlink()
    own = [
        row
        for row in rows
        if row[3] >= MIN_CALLS_PER_REQUEST * REQUESTS and ("/pointsman_" in row[0] or row[0] == GENERATED_FILE)
    ]
    by_file: Counter[str] = Counter()
    for name, _, instructions, _ in own:
        by_file[name.rpartition("/src/")[2]] += instructions / REQUESTS
    return InstructionCount(sum(row[2] for row in own) / REQUESTS, sum(row[3] for row in own) / REQUESTS, by_file)


def format_report(found: dict[str, InstructionCount]) -> str:
    """Returns a table, with one JSON object as its last line."""
    lines = [f"bytecode instructions (Python {sys.version.split()[0]}) per request in this project:"]
    for name, counted in found.items():
        lines.append(f"  {name}: {counted.instructions:.0f} in {counted.calls:.0f} calls")
    passed = {name: sum(file.startswith("pointsman_gateway/") for file in one.by_file) for name, one in found.items()}
    lines.append(f"gateway files per request: {', '.join(f'{name} {n}' for name, n in passed.items())}")
    lines += [f"{instructions:8.0f}  {file}" for file, instructions in found["named"].by_file.most_common(MAX_ROWS)]
    result = {f"instructions_{name}": round(counted.instructions) for name, counted in found.items()}
    result |= {f"files_{name}": number for name, number in passed.items()}
    return "\n".join([*lines, json.dumps(result)])
