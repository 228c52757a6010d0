"""Sixty-four adapters on eight slots, asked for as words are used: some all the time, most of them seldom."""

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from benchmarks.adapters.components import House, Plan, running, watching
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.adapters import adapters
from benchmarks.adapters.asking import Answer, ask
from benchmarks.adapters.configuration import WORD
from benchmarks.adapters.verdicts import Move, Points, Texts, Verdict, judged
from benchmarks.gateway_load.http_client import get

ADAPTERS, SLOTS, EXPONENT = 64, 8, 1.1
CLIENTS = 16
MOST_TOKENS = 8
REQUEST = "{} passengers ask for the platform of the train to Larkmoor."


@dataclass(frozen=True, slots=True)
class Zipfed:
    verdict: Verdict
    hits: int
    """Requests whose version the engine had confirmed when they were sent."""
    seconds: float
    loads: int
    load_p50: float
    load_p95: float
    """Seconds from a request for an adapter that was not resident to its first token."""
    hit_p50: float
    hit_p95: float
    """The same for one that was."""
    server_load_mean: float
    """Seconds, as the lora-server counts a load: from the store's check to the first answer."""

    @property
    def hit_ratio(self) -> float:
        return self.hits / max(1, self.verdict.answers)


async def measure(folder: Path, requests: int) -> Zipfed:
    """Raises CannotMeasure, and AioRpcError where an adapter cannot be registered."""
    made = adapters.constants(ADAPTERS)
    names = [f"word{number:02}" for number in range(ADAPTERS)]
    plan = Plan(slots=SLOTS, smoke=False, adapters=names)
    async with running(folder, plan) as components:
        points, texts = Points(), dict[str, str]()
        for name, adapter in zip(names, made, strict=True):
            called = time.monotonic()
            version = await components.register(name, adapter.folder, WORD)
            points.moved(f"{name}@{WORD}", Move(version, called, time.monotonic()))
            texts[version] = adapter.text(MOST_TOKENS)
        return await _load(components, points, Texts(texts, {}, frozenset()), names, requests)


async def _load(components: House, points: Points, texts: Texts, names: list[str], requests: int) -> Zipfed:
    ranks = 1.0 / np.arange(1, len(names) + 1) ** EXPONENT
    chosen = random.Random(7)
    asked = iter(enumerate(chosen.choices(names, weights=list(ranks), k=requests)))
    found: list[tuple[Answer, bool]] = []
    before, seconds = await loads(components)
    async with _Residents(components) as residents:
        await residents.told.wait()

        async def client() -> None:
            for number, name in asked:
                alias = f"{name}@{WORD}"
                held = points.now(alias) in residents.now
                found.append((await ask(components.gateways[0], alias, REQUEST.format(number), MOST_TOKENS), held))

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        took = time.monotonic() - began
    loads_after, seconds_after = await loads(components)
    load, hit = ([answer.first_seconds for answer, held in found if held is of] for of in (False, True))
    return Zipfed(
        verdict=judged([answer for answer, _ in found], texts, points),
        hits=len(hit),
        seconds=took,
        loads=round(loads_after - before),
        load_p50=_quantile(load, 0.5),
        load_p95=_quantile(load, 0.95),
        hit_p50=_quantile(hit, 0.5),
        hit_p95=_quantile(hit, 0.95),
        server_load_mean=(seconds_after - seconds) / max(1.0, loads_after - before),
    )


def _quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share, method="higher")) if values else float("nan")


class _Residents:
    """What the engine holds, as gateways are told."""

    def __init__(self, components: House) -> None:
        self._house = components
        self.now: frozenset[str] = frozenset()
        self.told = asyncio.Event()

    async def __aenter__(self) -> "_Residents":
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._following.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self._following

    async def _follow(self) -> None:
        async with watching(self._house.stub) as states:
            async for state in states:
                self.now = frozenset(state.resident)
                self.told.set()


async def loads(components: House) -> tuple[float, float]:
    """How many the lora-server has counted, and their seconds together."""
    page = (await get(components.metrics, "/metrics")).body.decode()
    samples: Mapping[str, float] = {
        sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples
    }
    metric = "pointsman_lora_adapter_load_duration_seconds"
    return samples[f"{metric}_count"], samples[f"{metric}_sum"]
