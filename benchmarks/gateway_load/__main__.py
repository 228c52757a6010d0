"""Measures the gateway's request path and other gateways, each on the same core in front of the same mock engine.

    python -m benchmarks.gateway_load [--quick] [--profile] [--only rps|auto|latency|streams|grpc|junk|workers ...]
    python -m benchmarks.gateway_load --smoke
    python -m benchmarks.gateway_load --soak [--minutes 20] [--rate 300]
    python -m benchmarks.gateway_load --instructions
    python -m benchmarks.gateway_load --trace-loop

The last line of output is one JSON object. Gateways and tools that are not installed are skipped and reported.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks.gateway_load import instructions, loop_trace, mixed_load, report, smoke, soak
from benchmarks.gateway_load.machine import CannotMeasure, NotInstalled, describe_machine, take_cores
from benchmarks.gateway_load.our_gateway import start_gateway
from benchmarks.gateway_load.phases import PACE, PHASES, Bench, Extent
from benchmarks.gateway_load.processes import Processes
from benchmarks.gateway_load.upstreams import start_upstreams

FULL = Extent(rounds=5, seconds=4.0, warm_up=2.0, latency=(3, 5.0), streams=3, slow_streams=True,
              grpc=(3, 4.0), junk=10_000, bodies=2_048)  # fmt: skip
QUICK = Extent(rounds=2, seconds=2.0, warm_up=1.0, latency=(1, 2.0), streams=1, slow_streams=False,
               grpc=(1, 2.0), junk=1_000, bodies=256)  # fmt: skip

TRACED_RATE, TRACED_SECONDS = 1_000, 10.0


class BoundBroken(Exception):
    """A figure of the smoke run exceeds its bound."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="shorter measurements with fewer rounds")
    parser.add_argument("--only", choices=PHASES, nargs="+", default=list(PHASES), help="the measurements to run")
    parser.add_argument("--profile", action="store_true", help="also profile the gateway (py-spy)")
    parser.add_argument("--smoke", action="store_true", help="3 minutes; exit status 1 if a wide bound is broken")
    parser.add_argument("--soak", action="store_true", help="only check that memory does not grow under mixed load")
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the soak test")
    parser.add_argument("--rate", type=int, default=300, help="requests per second of the soak test")
    parser.add_argument("--instructions", action="store_true", help="only count the bytecode instructions of a request")
    parser.add_argument("--trace-loop", action="store_true", help="only list event loop iterations over 1 ms")
    options = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(runner.run(run_until_sigterm(options)))
    except (CannotMeasure, NotInstalled, BoundBroken) as error:
        print(f"gateway_load: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        print("gateway_load: stopped", file=sys.stderr)
        return 1
    return 0


async def run_until_sigterm(options: argparse.Namespace) -> str:
    """Stops all started processes on SIGTERM, as on Ctrl-C."""
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with tempfile.TemporaryDirectory(prefix="gateway-load-") as folder, Processes(Path(folder)) as processes:
        print(describe_machine(), flush=True)
        if options.soak:
            return await run_soak(processes, options)
        if options.trace_loop:
            return await trace_loop(processes)
        if options.smoke:
            return await run_smoke(processes)
        return await (count_instructions(processes) if options.instructions else run_phases(processes, options))


async def run_soak(processes: Processes, options: argparse.Namespace) -> str:
    cores = take_cores()
    gateway = await start_gateway(processes, cores, await start_upstreams(processes, cores, mixed_load.PACE))
    return soak.format_report(await soak.soak(gateway, options.minutes, options.rate))


async def count_instructions(processes: Processes) -> str:
    cores = take_cores()
    return instructions.format_report(
        await instructions.count(processes, cores, await start_upstreams(processes, cores, PACE))
    )


async def trace_loop(processes: Processes) -> str:
    cores = take_cores()
    upstreams = await start_upstreams(processes, cores, PACE)
    return loop_trace.format_report(*await loop_trace.trace(processes, cores, upstreams, TRACED_RATE, TRACED_SECONDS))


async def run_phases(processes: Processes, options: argparse.Namespace) -> str:
    bench = await Bench.start(processes, QUICK if options.quick else FULL, options.only)
    for name in options.only:
        await bench.run(name)
    if options.profile:
        await bench.run("profile")
    return report.format_report(bench.found)


async def run_smoke(processes: Processes) -> str:
    """Runs the smoke measurement and returns its report. Raises BoundBroken."""
    bench = await Bench.start(processes, QUICK, list(smoke.PHASES), smoke.PEERS)
    for name in smoke.PHASES:
        await bench.run(name)
    text = report.format_report(bench.found)
    broken = [str(check) for check in smoke.checks(bench.found) if not check.holds]
    if broken:
        print(text)
        raise BoundBroken("; ".join(broken))
    return text


if __name__ == "__main__":
    sys.exit(main())
