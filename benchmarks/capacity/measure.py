"""Runs one real engine under closed loops of several sizes, and fits its step time to some of the runs.

It writes runs.yaml, the runs that the simulator must reproduce, and prints the engine's figures. `fitted` marks the
runs that the figures were fitted to; the others show whether the figures hold. The last line is a JSON object.
"""

import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import yaml
from scipy.optimize import nnls  # type: ignore[import-untyped]  # it ships no types

from benchmarks.adapters.kernels import ADAPTERS, BASE, engine_running, random_adapter
from benchmarks.capacity.inputs import EngineFigures, MeasuredRun, Measurements, PathLoad
from benchmarks.capacity.simulator import compare
from benchmarks.gateway_load.machine import CannotMeasure, describe_machine

MAX_LORAS, ADAPTER_LOAD_SECONDS, USD_PER_HOUR = 8, 1.66, 0.04
"""The load time while the engine serves is measured by `make bench-adapters` (Zipf); the price is assumed."""


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    clients: int
    prompt: int
    tokens: int
    models: Sequence[str]
    fitted: bool


RUNS = (
    Run("base, 1 client, short prompts", 1, 16, 48, (BASE,), True),
    Run("base, 4 clients, short prompts", 4, 16, 48, (BASE,), False),
    Run("base, 8 clients, short prompts", 8, 16, 48, (BASE,), False),
    Run("base, 16 clients, short prompts", 16, 16, 48, (BASE,), True),
    Run("base, 4 clients, long prompts", 4, 512, 16, (BASE,), True),
    Run("base, 8 clients, middling prompts", 8, 256, 32, (BASE,), False),
    Run("adapters, 16 clients, short prompts", 16, 16, 48, ADAPTERS, True),
    Run("adapters, 8 clients, short prompts", 8, 16, 48, ADAPTERS, False),
    Run("adapters, 4 clients, long prompts", 4, 512, 16, ADAPTERS, True),
    Run("adapters, 8 clients, middling prompts", 8, 256, 32, ADAPTERS, False),
)


def ask(url: str, run: Run, seconds: float) -> tuple[float, float]:
    """Returns tokens per second, and the median seconds of a request; requests that ended in the first fifth of the
    time are not counted.
    """
    stop, times = threading.Event(), list[tuple[float, float]]()  # end and duration of each request
    started = time.perf_counter()

    def client(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(trust_env=False, timeout=300) as http:
            while not stop.is_set():
                # Lengths vary by a third, as in the simulator; random tokens, so that no prompt is cached.
                prompt = [chance.randrange(100, 40_000) for _ in range(_vary(run.prompt, chance))]
                tokens, sent = _vary(run.tokens, chance), time.perf_counter()
                body = {"model": chance.choice(run.models), "prompt": prompt, "max_tokens": tokens, "temperature": 0}
                answer = http.post(f"{url}/v1/completions", json=body | {"ignore_eos": True})
                if answer.status_code != 200:
                    raise CannotMeasure(f"the engine answers {answer.status_code}: {answer.text[:300]}")
                now = time.perf_counter()
                times.append((now, now - sent))

    with ThreadPoolExecutor(run.clients) as pool:
        clients = [pool.submit(client, number) for number in range(run.clients)]
        time.sleep(seconds)
        stop.set()
        for done in clients:
            done.result()
    kept = [took for at, took in times if at - started > seconds / 5]
    median = statistics.median(kept)
    return run.clients * run.tokens / statistics.fmean(kept), median


def _vary(mean: int, chance: random.Random) -> int:
    return max(1, round(mean * chance.uniform(2 / 3, 4 / 3)))


def fit(measured: Sequence[tuple[Run, float]]) -> dict[str, float]:
    """Fits the engine's step times by non-negative least squares over the mean seconds of a step.

    In a closed loop of n clients an answer of t tokens takes t steps. Each step carries n rows and, on average,
    n * prompt / t tokens of prompts.
    """
    rows, right = [], []
    for run, tokens_per_second in measured:
        if not run.fitted:
            continue
        seconds = run.clients / tokens_per_second  # of one step: it gives every client one token
        read = run.clients * run.prompt / run.tokens
        adapters = run.models != (BASE,)
        nothing, work = (0.0, 0.0), (float(run.clients), read)
        rows.append([1.0, *(nothing if adapters else work), *(work if adapters else nothing)])
        right.append(seconds)
    found, _ = nnls(np.array(rows), np.array(right))
    names = ("step", "row", "prompt_token", "adapter_row", "adapter_prompt_token")
    return {f"{name}_seconds": round(float(value), 6) for name, value in zip(names, found, strict=True)}


def measure(seconds: float) -> list[tuple[Run, float, float]]:
    """Returns each run with its tokens per second and its median seconds. Raises CannotMeasure."""
    with tempfile.TemporaryDirectory() as folder:
        adapters = {name: random_adapter(Path(folder) / name, seed) for seed, name in enumerate(ADAPTERS)}
        with engine_running(Path(folder) / "engine.log", adapters, "on") as engine:
            found = []
            for run in RUNS:
                ask(engine.url, run, 2.0)  # warm-up: the first requests with an adapter read its files
                tokens, median = ask(engine.url, run, seconds)
                found.append((run, tokens, median))
                print(f"{run.name}: {tokens:.1f} tokens/s, p50 {median:.2f} s", flush=True)
            return found


def measure_and_write(seconds: float, out: Path) -> None:
    """Measures the engine under each load for `seconds` and writes the fitted figures to the file `out`.

    Raises CannotMeasure if the engine fails.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the engine is stopped too
    found = measure(seconds)
    figures = EngineFigures(
        **fit([(run, tokens) for run, tokens, _ in found]),
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        max_loras=MAX_LORAS,
        adapter_load_seconds=ADAPTER_LOAD_SECONDS,
        usd_per_hour=USD_PER_HOUR,
    )
    measurements = Measurements(
        about=describe_machine(),
        runs=tuple(
            MeasuredRun(
                name=run.name,
                clients=run.clients,
                path=PathLoad(
                    share=1,
                    prompt_tokens=run.prompt,
                    completion_tokens=run.tokens,
                    adapters=0 if run.models == (BASE,) else len(run.models),
                ),
                tokens_per_second=round(tokens, 2),
                total_p50=round(median, 3),
                fitted=run.fitted,
            )
            for run, tokens, median in found
        ),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "runs.yaml").write_text(yaml.safe_dump(measurements.model_dump(), sort_keys=False, width=120))
    print(yaml.safe_dump({"engine": figures.model_dump()}, sort_keys=False))
    checks = compare(measurements, figures)
    for one in checks:
        print(
            f"{one.run}: {one.figure} {one.measured:.2f} measured, {one.simulated:.2f} simulated ({one.deviation:+.0%})"
        )
    print(json.dumps({"worst_off": max(abs(one.deviation) for one in checks if not one.fitted)}))
