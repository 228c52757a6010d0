"""Measures requests per second with wrk: 64 connections, each of which sends its next request when the last is
answered."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.gateway_load.contenders import Contender
from benchmarks.gateway_load.http_client import HOST, Target
from benchmarks.gateway_load.machine import CannotMeasure, program
from benchmarks.gateway_load.request_bodies import encode_bodies, write_lines

CONNECTIONS = 64
Bodies = list[dict[str, object]]

SCRIPT = """
local requests = {{}}
local place = 0
function init(args)
  local headers = {{ {headers} }}
  for body in io.lines("{bodies}") do
    requests[#requests + 1] = wrk.format("POST", "{path}", headers, body)
  end
end
function request()
  place = place % #requests + 1
  return requests[place]
end
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    'RESULT {{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "broken": %d}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Medians over the rounds of one contender."""

    rps: float
    min_rps: float
    max_rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time per request in microseconds."""
    resident_mb: float
    failed: int
    """Number of failed requests in all rounds."""

    @property
    def busy(self) -> float:
        """Share of the core; if it is well below 1, other processes used the core or the load generator was the
        bottleneck.
        """
        return self.rps * self.cpu_us / 1e6


@dataclass(frozen=True, slots=True)
class Round:
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: float
    warm_up: float


async def measure(bodies: Sequence[tuple[Contender, Bodies]], plan: Plan, folder: Path) -> dict[str, Throughput]:
    """Measures every contender once per round, so that a slow minute affects all of them. Raises NotInstalled."""
    scripts = [(one, write_script(one.plain, bodies, folder, number)) for number, (one, bodies) in enumerate(bodies)]
    rounds: dict[str, list[Round]] = {one.name: [] for one, _ in scripts}
    for one, script in scripts:
        await run_wrk(one.plain, script, plan.warm_up)
        await one.wait_until_idle()
    for _ in range(plan.rounds):
        for one, script in scripts:
            rounds[one.name].append(await _round(one, script, plan.seconds))
            await one.wait_until_idle()
    return {one.name: _median_over(rounds[one.name], one.resident_mb()) for one, _ in scripts}


def write_script(target: Target, bodies: Bodies, folder: Path, number: int) -> Path:
    lines = write_lines(encode_bodies(bodies, target.model), folder / f"bodies-{number}.jsonl")
    headers = {"content-type": "application/json", **target.headers}
    written = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
    script = folder / f"wrk-{number}.lua"
    script.write_text(SCRIPT.format(headers=written, bodies=lines, path=target.path))
    return script


async def run_wrk(target: Target, script: Path, seconds: float) -> dict[str, float]:
    """Returns the figures that the script prints at its end. Raises NotInstalled, CannotMeasure."""
    command = ["-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(script)]
    wrk = await asyncio.create_subprocess_exec(
        program("wrk"),
        *command,
        f"http://{HOST}:{target.port}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds + 40):
            output, _ = await wrk.communicate()
    finally:
        if wrk.returncode is None:
            wrk.kill()
            await wrk.wait()
    for line in output.decode().splitlines():
        if line.startswith("RESULT "):
            found: dict[str, float] = json.loads(line.removeprefix("RESULT "))
            return found
    raise CannotMeasure(f"wrk reports nothing for port {target.port}: {output.decode()[-500:]}")


async def _round(one: Contender, script: Path, seconds: float) -> Round:
    cpu, started = one.cpu_seconds(), time.monotonic()
    output = await run_wrk(one.plain, script, seconds)
    spent = (one.cpu_seconds() - cpu) / (time.monotonic() - started) * output["seconds"]
    failed = int(output["refused"] + output["broken"])
    answered = max(output["requests"] - output["refused"], 0)
    rps = answered / output["seconds"]
    return Round(rps, output["p50_ms"], output["p99_ms"], 1e6 * spent / max(answered, 1), failed)


def _median_over(rounds: list[Round], resident_mb: float) -> Throughput:
    rates = [one.rps for one in rounds]
    return Throughput(
        rps=median(rates),
        min_rps=min(rates),
        max_rps=max(rates),
        p50_ms=median(one.p50_ms for one in rounds),
        p99_ms=median(one.p99_ms for one in rounds),
        cpu_us=median(one.cpu_us for one in rounds),
        resident_mb=resident_mb,
        failed=sum(one.failed for one in rounds),
    )
