"""Streams, plain answers, cancels and errors, mixed, for a long time: whether the gateway's memory stays as it is."""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.gateway_load.flatness import Slope, slope
from benchmarks.gateway_load.http_client import get
from benchmarks.gateway_load.junk import series
from benchmarks.gateway_load.mixed_load import MIX, mixed_load
from benchmarks.gateway_load.our_gateway import Gateway
from benchmarks.gateway_load.ticker import Ticker

SAMPLE_SECONDS = 2.0
SAMPLES_A_LINE = 30
"""Between two lines that say how far it is."""
WARM_UP = 0.2
"""Share of the time, at the start, in which memory may still grow."""


@dataclass(frozen=True, slots=True)
class Soaked:
    seconds: float
    outcomes: dict[str, int]
    """ "KIND as expected", "KIND: what came instead", "left out"."""
    memory: Slope
    """Megabytes an hour, after the warm-up."""
    first_mb: float
    """After the warm-up, the mean of a tenth of what was measured; and of the last tenth."""
    last_mb: float
    series: tuple[int, int]
    """Of the metrics: after the warm-up, and at the end."""
    files: tuple[int, int]
    in_flight: float
    """What the gateway says is still being answered when all is over; 0 is right."""

    @property
    def unexpected(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if ":" in outcome)


async def soak(gateway: Gateway, minutes: float, rate: int) -> Soaked:
    load = mixed_load(gateway)
    for kind in MIX:
        await load.start(kind)
    born = files = 0
    begun, seconds = time.monotonic(), minutes * 60
    moments: list[float] = []
    held: list[float] = []
    with Ticker(rate, round(rate * seconds), load.due) as ticker:
        while not ticker.over.is_set():
            moments.append(time.monotonic() - begun)
            held.append(gateway.running.resident_mb())
            if not born and moments[-1] > WARM_UP * seconds:
                born, files = await series(gateway), gateway.running.open_files()
            if len(moments) % SAMPLES_A_LINE == 1:
                print(f"{moments[-1] / 60:5.1f} min, {held[-1]:6.1f} MB, {load.outcomes.total()} requests", flush=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(ticker.over.wait(), SAMPLE_SECONDS)
    await load.ended()
    in_flight = await _settled(gateway)
    counted = sum(1 for moment in moments if moment < WARM_UP * seconds)
    moments, held = moments[counted:], held[counted:]
    tenth = max(len(held) // 10, 1)
    return Soaked(
        seconds=time.monotonic() - begun,
        outcomes=dict(sorted(load.outcomes.items())),
        memory=slope(moments, held),
        first_mb=sum(held[:tenth]) / tenth,
        last_mb=sum(held[-tenth:]) / tenth,
        series=(born, await series(gateway)),
        files=(files, gateway.running.open_files()),
        in_flight=in_flight,
    )


async def _settled(gateway: Gateway) -> float:
    """Requests in flight by the gateway's own count, once it is 0 or some seconds have gone."""
    deadline = time.monotonic() + 10
    while True:
        text = (await get(gateway.http, "/metrics", within=20)).body.decode()
        line = next((line for line in text.splitlines() if line.startswith("pointsman_in_flight")), "0 0")
        in_flight = float(line.split()[-1])
        if not in_flight or time.monotonic() > deadline:
            return in_flight
        await asyncio.sleep(0.1)


def printed(soaked: Soaked) -> str:
    """For people, and as its last line one JSON object."""
    memory = soaked.memory
    lines = [f"{soaked.seconds / 60:.1f} min, {sum(soaked.outcomes.values())} requests:"]
    lines += [f"  {count:8} {outcome}" for outcome, count in soaked.outcomes.items()]
    said = "flat" if memory.flat else "grows"
    lines += [
        f"memory after the warm-up: {soaked.first_mb:.1f} MB at first, {soaked.last_mb:.1f} MB at last; slope "
        f"{memory.per_hour:+.2f} MB/h, 95 % interval [{memory.least:+.2f}, {memory.most:+.2f}]: {said}",
        f"series of the metrics: {soaked.series[0]} -> {soaked.series[1]}; open files: "
        f"{soaked.files[0]} -> {soaked.files[1]}; in flight at the end: {soaked.in_flight:g}",
    ]
    result = {
        "minutes": round(soaked.seconds / 60, 2),
        "requests": sum(soaked.outcomes.values()),
        "unexpected": soaked.unexpected,
        "slope_mb_per_hour": round(memory.per_hour, 3),
        "slope_ci95": [round(memory.least, 3), round(memory.most, 3)],
        "flat": memory.flat,
        "first_mb": round(soaked.first_mb, 1),
        "last_mb": round(soaked.last_mb, 1),
        "series_before": soaked.series[0],
        "series_after": soaked.series[1],
    }
    return "\n".join([*lines, json.dumps(result)])
