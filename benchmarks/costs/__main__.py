"""Measures what the most expensive inputs cost a real gateway process, and prints the worst twenty.

    make bench-costs                            # about four minutes; ARGS="--only embeddings" for names that contain it

Bounds of a request with a key: 50 ms of CPU time without a break of the event loop, and three times the request's size
in memory, but at most 64 MiB more than its size. Bounds without a key: 5 ms of CPU time in all, and 1 MiB; on a busy
machine three times the CPU time of just receiving the bytes, plus 2 ms. The CPU time of an idle gateway, about 1 % of a
processor, is subtracted. The size includes the engine's answer.

The longest step of the event loop is measured on asyncio's own loop, which is slower than uvloop; the function in which
it occurred is reported. The last line of output is one JSON object with the number of inputs over a bound; the exit
code is 1 if there are any.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from pointsman_servicekit.grpc_client import open_channel

from benchmarks.costs.input import Input
from benchmarks.costs.inputs import all_inputs
from benchmarks.costs.measuring import (
    KEYED_STEP_MS,
    Cost,
    Step,
    Use,
    measure_idle,
    measure_receiving,
    measure_step,
    measure_use,
    mib,
)
from benchmarks.gateway_load import loop_tracer
from tests.fuzz.rig import HttpCase, Hung, Rig, running_rig

WORST, PROGRESS = 20, 20
MARKER = "case-costs-1"
READ_SECONDS = 0.3
"""How long to wait for an answer after sending raw bytes."""


async def send(rig: Rig, one: Input) -> None:
    """Sends the input, and returns once it is answered or rejected."""
    with contextlib.suppress(OSError, Hung, grpc.aio.AioRpcError):
        if one.raw:
            await _send_bytes(rig, one)
        elif one.grpc_method:
            await _call(rig, one)
        else:
            headers = dict(one.headers or {})
            await rig.ask(HttpCase(one.method, one.path, headers, one.body, one.key, MARKER, one.engine))


async def _send_bytes(rig: Rig, one: Input) -> None:
    address = rig.gateway.grpc_address if one.port == "grpc" else _http_address(rig)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(one.raw)
        sending = asyncio.create_task(writer.drain())
        with contextlib.suppress(TimeoutError):
            while await asyncio.wait_for(reader.read(1 << 20), READ_SECONDS):
                pass
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    finally:
        writer.transport.abort()


async def _call(rig: Rig, one: Input) -> None:
    metadata = [("authorization", f"Bearer {rig.keys[one.key]}")] if one.key else []
    async with open_channel(rig.gateway.grpc_address) as channel:
        call: Any = channel.unary_unary(f"/pointsman.v1.Gateway/{one.grpc_method}")
        await call(one.body, metadata=metadata, timeout=10)


def _http_address(rig: Rig) -> str:
    return rig.gateway.url.removeprefix("http://")


def marked(one: Input) -> Input:
    """Returns the input with the marker by which the scripted engine finds its answer."""
    if not one.engine:
        return one
    where = b'"content": "x"' if b'"content": "x"' in one.body else b'"content": "I left my umbrella"'
    if where not in one.body:
        return replace(one, body=one.body.replace(b'["a"', b'["%b"' % MARKER.encode(), 1))
    return replace(one, body=one.body.replace(where, where[:-1] + b" " + MARKER.encode() + b'"'))


async def main(options: argparse.Namespace) -> int:
    logging.disable()
    inputs = [marked(one) for one in all_inputs() if options.only in one.title]
    uses = await _measure_uses(inputs, options.attempts)
    # No step is longer than the whole.
    long = [one for one, (use, _) in zip(inputs, uses, strict=True) if one.key and use.total_ms > KEYED_STEP_MS]
    steps = {} if options.whole else await _measure_steps(long, options.attempts)
    costs = [
        Cost(one.title, bool(one.key), mib(one.size), use, steps.get(one.title, Step(use.total_ms)), receive_ms)
        for one, (use, receive_ms) in zip(inputs, uses, strict=True)
    ]
    costs.sort(key=lambda cost: -cost.ratio)
    print(f"The worst {WORST} of {len(costs)} inputs:")
    for cost in costs[:WORST]:
        print(line(cost))
    over = [cost for cost in costs if cost.ratio > 1]
    worst = [{"name": c.name, "ms": round(c.ms, 1), "mib": round(c.use.peak_mib, 1)} for c in costs[:WORST]]
    print(json.dumps({"inputs": len(costs), "over_the_bound": len(over), "worst": worst}))
    return 1 if over else 0


async def _measure_uses(inputs: Sequence[Input], attempts: int) -> list[tuple[Use, float]]:
    """Returns the CPU time and memory of each input, and the milliseconds that receiving its bytes takes."""
    found = []
    with tempfile.TemporaryDirectory(prefix="pointsman-costs-") as folder:
        async with running_rig(Path(folder)) as rig:
            await rig.warm_up()  # so that /metrics has the series of a used gateway
            idle = await measure_idle(rig.gateway.pid)
            for one in inputs:
                use = await measure_use(rig.gateway.pid, attempts, partial(send, rig, one), idle)
                found.append((use, measure_receiving(one.size)))
                report_progress(len(found), len(inputs), "uses")
    return found


async def _measure_steps(inputs: Sequence[Input], attempts: int) -> dict[str, Step]:
    """Returns the longest step of the event loop for each input, in a gateway that runs under the loop tracer."""
    if not inputs:
        return {}
    with tempfile.TemporaryDirectory(prefix="pointsman-costs-") as folder:
        file = Path(folder) / "iterations.json"
        async with running_rig(Path(folder), (loop_tracer.__file__, str(file))) as rig:
            await rig.warm_up()
            found: dict[str, Step] = {}
            for one in inputs:
                found[one.title] = await measure_step(rig.gateway.pid, file, attempts, partial(send, rig, one))
                report_progress(len(found), len(inputs), "steps")
            return found


def report_progress(done: int, count: int, what: str) -> None:
    if done % PROGRESS == 0:
        print(f"{done} of {count} {what} are measured", file=sys.stderr, flush=True)


def line(cost: Cost) -> str:
    time = f"{cost.ms:8.1f} ms of {cost.max_ms:2.0f}"
    memory = f"{cost.use.peak_mib:7.1f} MiB of {cost.max_mib:5.1f}"
    size = f"{cost.use.total_ms:.1f} ms in all, {cost.size_mib:.2f} MiB"
    cause = f": {cost.step.cause}" if cost.step.cause else ""
    return f"{cost.ratio:6.1f} x  {time}  {memory}  ({size}{cause})  {cost.name}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs")
    parser.add_argument("--only", default="", help="only inputs whose name contains this")
    parser.add_argument("--whole", action="store_true", help="do not look for the longest step of a request")
    parser.add_argument("--attempts", type=int, default=3, help="of which the cheapest counts, since others only add")
    sys.exit(asyncio.run(main(parser.parse_args())))
