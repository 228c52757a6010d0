"""Lists the iterations of the gateway's event loop that take more than a millisecond at a fixed rate of requests."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from benchmarks.gateway_load import instructions, loop_tracer
from benchmarks.gateway_load.latency import Latency, send_at_rate
from benchmarks.gateway_load.loop_tracer import THRESHOLD_SECONDS, Iteration
from benchmarks.gateway_load.machine import Cores
from benchmarks.gateway_load.our_gateway import start_gateway
from benchmarks.gateway_load.processes import Processes
from benchmarks.gateway_load.request_bodies import encode_bodies, read_texts, request_bodies
from benchmarks.gateway_load.upstreams import Upstreams

BODIES = 2_048
WARM_UP_SECONDS = 2.0
MAX_ROWS = 200
"""Maximum number of listed iterations; the longest are listed if there are more."""


async def trace(
    processes: Processes, cores: Cores, upstreams: Upstreams, rate: int, seconds: float
) -> tuple[list[Iteration], Latency]:
    """Sends `rate` requests per second, and returns the long iterations and the latency. Raises CannotMeasure."""
    file = processes.folder / "iterations.json"
    gateway = await start_gateway(processes, cores, upstreams, (loop_tracer.__file__, str(file)))
    target = gateway.path("fast")
    bodies = encode_bodies(list(request_bodies(read_texts().test, BODIES)), target.model)
    await send_at_rate(target, bodies, rate, WARM_UP_SECONDS)
    os.kill(gateway.process.pid, loop_tracer.START)
    latency = await send_at_rate(target, bodies, rate, seconds)
    os.kill(gateway.process.pid, loop_tracer.STOP)
    await gateway.process.until_written(file, instructions.MAX_WAIT_SECONDS)
    return [Iteration(**row) for row in json.loads(file.read_text())], latency


def format_report(iterations: Sequence[Iteration], latency: Latency) -> str:
    """Returns the longest iterations, then all by cause, with one JSON object as the last line."""
    longest = sorted(iterations, key=lambda one: -one.milliseconds)
    lines = [
        f"{len(iterations)} iterations over {THRESHOLD_SECONDS * 1e3:g} ms",
        "   at s      ms     cpu      gc  sockets  cause",
    ]
    for one in longest[:MAX_ROWS]:
        numbers = (
            f"{one.at_seconds:7.3f} {one.milliseconds:7.2f} {one.cpu_milliseconds:7.2f} {one.gc_milliseconds:7.2f}"
        )
        lines.append(f"{numbers} {one.sockets:8d}  {one.cause}")
    by_cause: dict[str, list[float]] = defaultdict(list)
    for one in longest:
        by_cause[one.cause].append(one.milliseconds)
    lines.append("  count  median     max  cause (ms)")
    for cause, found in sorted(by_cause.items(), key=lambda item: -sum(item[1])):
        lines.append(f"{len(found):7d} {np.median(found):7.2f} {max(found):7.2f}  {cause}")
    return "\n".join([*lines, json.dumps({"long_iterations": len(iterations), **asdict(latency)})])
