"""Sends mixed requests for a long time and checks that the gateway's memory does not grow; then measures what 1,000
concurrent streams add to it, and what is left of that after a minute."""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.stats import t  # type: ignore[import-untyped]  # it ships no types

from benchmarks.gateway_load.contenders import Contender, ours
from benchmarks.gateway_load.http_client import get
from benchmarks.gateway_load.junk import count_series
from benchmarks.gateway_load.mixed_load import MIX, PACE, mixed_load
from benchmarks.gateway_load.our_gateway import Gateway
from benchmarks.gateway_load.request_bodies import read_texts, request_bodies
from benchmarks.gateway_load.streams import STREAMS_1000, StreamStatistics, run_round
from benchmarks.gateway_load.ticker import Ticker

MIN_MEASUREMENTS = 8
"""Least number of measurements; with fewer, the interval of the slope is infinite."""
SAMPLE_SECONDS = 2.0
SAMPLES_PER_LINE = 30
"""Number of samples between two lines of progress."""
STREAM_ROUNDS = 5
REST_SECONDS = 60.0
"""Seconds after the streams after which memory is measured again."""
WARM_UP = 0.2
"""Share of the time, at the start, in which memory may still grow."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope in units per hour, with its 95 % interval."""

    per_hour: float
    low: float
    high: float

    @property
    def flat(self) -> bool:
        """Whether the interval includes zero or negative slopes."""
        return self.low <= 0


@dataclass(frozen=True, slots=True)
class StreamMemory:
    """The gateway's resident memory in megabytes before, during and after concurrent streams."""

    before_mb: float
    peak_mb: float
    after_mb: float
    """`REST_SECONDS` after the last stream."""
    incomplete: int


@dataclass(frozen=True, slots=True)
class SoakResult:
    seconds: float
    outcomes: dict[str, int]
    """Counts by "KIND as expected", "KIND: actual outcome", or "skipped"."""
    memory: Slope
    """Megabytes per hour after the warm-up."""
    first_mb: float
    """Mean of the first tenth of the measurements after the warm-up; `last_mb` is that of the last tenth."""
    last_mb: float
    series: tuple[int, int]
    """Number of series in the metrics after the warm-up and at the end."""
    files: tuple[int, int]
    in_flight: float
    """Requests that the gateway still counts as in flight after the end; should be 0."""
    streams: StreamMemory

    @property
    def unexpected(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if ":" in outcome)


async def soak(gateway: Gateway, minutes: float, rate: int) -> SoakResult:
    load = mixed_load(gateway)
    for kind in MIX:
        await load.start(kind)
    series_before = files = 0
    started, seconds = time.monotonic(), minutes * 60
    moments: list[float] = []
    resident_mb: list[float] = []
    with Ticker(rate, round(rate * seconds), load.on_tick) as ticker:
        while not ticker.finished.is_set():
            moments.append(time.monotonic() - started)
            resident_mb.append(gateway.process.resident_mb())
            if not series_before and moments[-1] > WARM_UP * seconds:
                series_before, files = await count_series(gateway), gateway.process.open_files()
            if len(moments) % SAMPLES_PER_LINE == 1:
                print(
                    f"{moments[-1] / 60:5.1f} min, {resident_mb[-1]:6.1f} MB, {load.outcomes.total()} requests",
                    flush=True,
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(ticker.finished.wait(), SAMPLE_SECONDS)
    await load.close()
    in_flight = await _requests_in_flight(gateway)
    files_after, series_after = gateway.process.open_files(), await count_series(gateway)
    counted = sum(1 for moment in moments if moment < WARM_UP * seconds)
    moments, resident_mb = moments[counted:], resident_mb[counted:]
    tenth = max(len(resident_mb) // 10, 1)
    return SoakResult(
        seconds=time.monotonic() - started,
        outcomes=dict(sorted(load.outcomes.items())),
        memory=fit_slope(moments, resident_mb),
        first_mb=sum(resident_mb[:tenth]) / tenth,
        last_mb=sum(resident_mb[-tenth:]) / tenth,
        series=(series_before, series_after),
        files=(files, files_after),
        in_flight=in_flight,
        streams=await measure_streams(ours(gateway)),
    )


async def measure_streams(gateway: Contender) -> StreamMemory:
    """Runs `STREAM_ROUNDS` rounds of 1,000 concurrent streams one after another."""
    bodies = list(request_bodies(read_texts().test, STREAMS_1000.count))
    before = peak = gateway.resident_mb()

    async def rounds() -> list[StreamStatistics]:
        return [await run_round(gateway, bodies, PACE, STREAMS_1000) for _ in range(STREAM_ROUNDS)]

    running = asyncio.create_task(rounds())
    while not running.done():
        peak = max(peak, gateway.resident_mb())
        await asyncio.wait([running], timeout=0.1)
    await asyncio.sleep(REST_SECONDS)
    incomplete = sum(found.incomplete for found in running.result())
    return StreamMemory(before, peak, gateway.resident_mb(), incomplete)


async def _requests_in_flight(gateway: Gateway) -> float:
    """Returns the gateway's number of requests in flight, once it is 0 or after ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        text = (await get(gateway.http, "/metrics", timeout_s=20)).body.decode()
        line = next((line for line in text.splitlines() if line.startswith("pointsman_in_flight")), "0 0")
        in_flight = float(line.split()[-1])
        if not in_flight or time.monotonic() > deadline:
            return in_flight
        await asyncio.sleep(0.1)


def format_report(result: SoakResult) -> str:
    """Returns a table, with one JSON object as its last line."""
    memory, streams = result.memory, result.streams
    lines = [f"{result.seconds / 60:.1f} min, {sum(result.outcomes.values())} requests:"]
    lines += [f"  {count:8} {outcome}" for outcome, count in result.outcomes.items()]
    verdict = "flat" if memory.flat else "grows"
    lines += [
        f"memory after the warm-up: {result.first_mb:.1f} MB at the start, {result.last_mb:.1f} MB at the end; slope "
        f"{memory.per_hour:+.2f} MB/h, 95 % interval [{memory.low:+.2f}, {memory.high:+.2f}]: {verdict}",
        f"series of the metrics: {result.series[0]} -> {result.series[1]}; open files: "
        f"{result.files[0]} -> {result.files[1]}; in flight at the end: {result.in_flight:g}",
        f"1,000 streams: {streams.before_mb:.1f} MB before, {streams.peak_mb:.1f} at the peak, {streams.after_mb:.1f} "
        f"a minute later; incomplete: {streams.incomplete}",
    ]
    summary = {
        "minutes": round(result.seconds / 60, 2),
        "requests": sum(result.outcomes.values()),
        "unexpected": result.unexpected,
        "slope_mb_per_hour": round(memory.per_hour, 3),
        "slope_ci95": [round(memory.low, 3), round(memory.high, 3)],
        "flat": memory.flat,
        "first_mb": round(result.first_mb, 1),
        "last_mb": round(result.last_mb, 1),
        "series_before": result.series[0],
        "series_after": result.series[1],
        "streams_mb": [round(mb, 1) for mb in (streams.before_mb, streams.peak_mb, streams.after_mb)],
        "streams_incomplete": streams.incomplete,
    }
    return "\n".join([*lines, json.dumps(summary)])


def fit_slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Fits a line by least squares.

    Successive memory measurements are correlated. As for AR(1) residuals with the autocorrelation r, the variance of
    the slope is multiplied by (1 + r) / (1 - r), and the effective number of measurements is divided by it.
    """
    count = len(seconds)
    if count < MIN_MEASUREMENTS:
        return Slope(0.0, -math.inf, math.inf)
    hours = np.asarray(seconds, dtype=float) / 3600
    hours -= hours.mean()
    resident_mb = np.asarray(values, dtype=float)
    spread = float(hours @ hours)
    rise = float(hours @ resident_mb) / spread
    residuals = resident_mb - resident_mb.mean() - rise * hours
    square = float(residuals @ residuals)
    correlation = float(residuals[1:] @ residuals[:-1]) / square if square > 1e-12 else 0.0
    widening = (1 + max(correlation, 0.0)) / (1 - min(max(correlation, 0.0), 0.99))
    error = math.sqrt(square / (count - 2) / spread * widening)
    half = float(t.ppf(0.975, max(count / widening - 2, 1.0))) * error
    return Slope(rise, rise - half, rise + half)
