"""Many adapters, requested by Zipf's law, through the product and then from bare vLLM with the same flags.

Also the first token of an adapter that the engine does not hold, while other streams run.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.adapters import adapters
from benchmarks.adapters.asking import Answer, Streams, ask
from benchmarks.adapters.bare import bare_vllm
from benchmarks.adapters.base_texts import QUESTIONS
from benchmarks.adapters.configuration import BASE, WORD
from benchmarks.adapters.house import House, Plan, running
from benchmarks.adapters.swap import Gaps, gaps_of
from benchmarks.adapters.verdicts import Move, Points, Texts, Verdict, judged
from benchmarks.gateway_load.http_client import get

FEW, MANY = 64, 256
BATCH, EXPONENT = 8, 1.1
CLIENTS = 16
MOST_TOKENS = 8
WARM_UP_REQUESTS = 32
"""Not counted, on either side."""
REGISTER_AT_ONCE = 16
"""As many as share one trial."""
MAX_SLOT_WAIT_SECONDS = 240
"""On a busy machine the trials of the versions before it may take long."""
MORE_THAN_HELD = 4
"""Adapters beyond those that fit, so that some are not held."""
STREAMED_ADAPTERS, STREAM_TOKENS = 6, 48
"""The streams beside which an adapter is loaded: two of each of these adapters, the others of the base model."""
REQUEST = "{} passengers ask for the platform of the train to Larkmoor."


@dataclass(frozen=True, slots=True)
class Extent:
    requests: int
    """On each side."""
    cold: int
    """Requests for an adapter that is not held."""
    calm: float
    """Seconds of the streams alone."""


FULL = Extent(requests=1000, cold=12, calm=20.0)
QUICK = Extent(requests=160, cold=5, calm=10.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What one side did with the requests."""

    responses_per_second: float
    first_p50: float
    first_p95: float
    """Seconds to the first token."""
    failed: int
    wrong_tokens: int


@dataclass(frozen=True, slots=True)
class Cold:
    """Requests for adapters that were not held, while 16 streams ran."""

    first: tuple[float, ...]
    """Seconds to the first token."""
    calm: Gaps
    loading: Gaps
    steps: Mapping[str, float]
    """Mean seconds of each step of these loads, as the lora-server measures them."""
    verdict: Verdict

    @property
    def p50(self) -> float:
        return float(np.median(self.first))

    @property
    def gap_ratio(self) -> float:
        return self.loading.p99 / self.calm.p99


@dataclass(frozen=True, slots=True)
class Zipfed:
    adapters: int
    ours: Load
    bare: Load
    verdict: Verdict
    """Of our side."""
    hits: int
    """Requests whose version the engine held when they were sent."""
    cold: Cold | None

    @property
    def hit_ratio(self) -> float:
        return self.hits / max(1, self.verdict.answers)

    @property
    def rate_ratio(self) -> float:
        return self.ours.responses_per_second / self.bare.responses_per_second

    @property
    def first_p95_ratio(self) -> float:
        return self.ours.first_p95 / self.bare.first_p95


async def measure(folder: Path, extent: Extent, count: int, *, with_cold: bool) -> Zipfed:
    """Raises CannotMeasure, and AioRpcError if an adapter cannot be registered."""
    named = {f"word{number:03}": made for number, made in enumerate(adapters.constants(count + MORE_THAN_HELD))}
    constants, extra = dict(list(named.items())[:count]), dict(list(named.items())[count:])
    patient = {"SLOT_WAIT_TIMEOUT_SECONDS": str(MAX_SLOT_WAIT_SECONDS)}
    plan = Plan(held=count, batch=BATCH, smoke=False, adapters=tuple(named), settings=patient)
    cold = None
    for side in ("ours", "bare"):
        (folder / side).mkdir(parents=True)
    async with running(folder / "ours", plan) as house:
        points, known = Points(), dict[str, str]()
        texts = Texts(known, {}, frozenset())
        await _register(house, constants, points, known)
        resident = await house.resident()
        hits = [0]

        async def ask_ours(name: str, question: str) -> Answer:
            hits[0] += points.now(f"{name}@{WORD}") in resident
            return await ask(house.gateways[0], f"{name}@{WORD}", question, MOST_TOKENS)

        answers, seconds = await _load(ask_ours, list(constants), extent.requests)
        verdict = judged(answers, texts, points)
        ours = _summary(answers, seconds, verdict.failed, verdict.wrong_tokens)
        if with_cold:
            await _register(house, extra, points, known)
            cold = await _cold(house, points, texts, list(named), extent)
    async with bare_vllm(folder / "bare", {name: one.folder for name, one in constants.items()}, BATCH) as port:

        async def ask_bare(name: str, question: str) -> Answer:
            return await ask(port, name, question, MOST_TOKENS)

        answers, seconds = await _load(ask_bare, list(constants), extent.requests)
        failed = sum(bool(answer.error) for answer in answers)
        wrong = sum(
            piece != f" {constants[answer.asked].word}" and piece.strip() != constants[answer.asked].word
            for answer in answers
            for _, piece in answer.pieces
        )
        bare = _summary(answers, seconds, failed, wrong)
    return Zipfed(count, ours, bare, verdict, hits[0] - WARM_UP_REQUESTS, cold)


async def _register(
    house: House, constants: Mapping[str, adapters.Constant], points: Points, known: dict[str, str]
) -> None:
    """Adds them to `points`, and their texts to `known`."""
    places = asyncio.Semaphore(REGISTER_AT_ONCE)

    async def register(name: str, adapter: adapters.Constant) -> None:
        async with places:
            called = time.monotonic()
            version = await house.register(name, adapter.folder, WORD)
            points.moved(f"{name}@{WORD}", Move(version, called, time.monotonic()))
            known[version] = adapter.text(STREAM_TOKENS)

    await asyncio.gather(*(register(name, adapter) for name, adapter in constants.items()))


async def _load(
    ask_for: Callable[[str, str], Awaitable[Answer]], names: list[str], requests: int
) -> tuple[list[Answer], float]:
    """The answers to the same requests in the same order on both sides, and the seconds that they took."""
    asked = _requests(names, WARM_UP_REQUESTS + requests)

    async def client(count: Iterator[int], answers: list[Answer]) -> None:
        for _ in count:
            answers.append(await ask_for(*next(asked)))

    async def together(count: int) -> list[Answer]:
        answers: list[Answer] = []
        numbers = iter(range(count))
        await asyncio.gather(*(client(numbers, answers) for _ in range(CLIENTS)))
        return answers

    await together(WARM_UP_REQUESTS)
    began = time.monotonic()
    answers = await together(requests)
    return answers, time.monotonic() - began


def _requests(names: list[str], count: int) -> Iterator[tuple[str, str]]:
    """Name and question of each request."""
    ranks = 1.0 / np.arange(1, len(names) + 1) ** EXPONENT
    chosen = random.Random(7).choices(names, weights=list(ranks), k=count)
    return ((name, REQUEST.format(number)) for number, name in enumerate(chosen))


async def _cold(house: House, points: Points, texts: Texts, names: list[str], extent: Extent) -> Cold:
    streamed = names[:STREAMED_ADAPTERS]
    models = [f"{name}@{WORD}" for name in streamed] * 2
    models += [BASE] * (CLIENTS - len(models))
    cold: list[Answer] = []
    async with Streams(house.gateways[0], models, QUESTIONS, STREAM_TOKENS) as streams:
        await streams.until(lambda answers: len(answers) >= 2 * len(models), within=180)
        calm_from = time.monotonic()
        await asyncio.sleep(extent.calm)
        before, begun = await load_steps(house), time.monotonic()
        for number in range(extent.cold):
            resident = await house.resident()
            away = next(name for name in reversed(names) if points.now(f"{name}@{WORD}") not in resident)
            question = REQUEST.format(f"{number} cold")
            cold.append(await ask(house.gateways[0], f"{away}@{WORD}", question, MOST_TOKENS))
        ended, after = time.monotonic(), await load_steps(house)
    of_adapters = [answer for answer in streams.answers if answer.asked != BASE]
    steps = {
        step: (after[step][1] - before[step][1]) / (after[step][0] - before[step][0])
        for step in after
        if after[step][0] > before[step][0]
    }
    return Cold(
        tuple(answer.first_seconds for answer in cold),
        gaps_of(streams, [(calm_from, begun)]),
        gaps_of(streams, [(begun, ended)]),
        steps,
        judged([*cold, *of_adapters], texts, points),
    )


def _summary(answers: list[Answer], seconds: float, failed: int, wrong_tokens: int) -> Load:
    first = [answer.first_seconds for answer in answers]
    return Load(len(answers) / seconds, _quantile(first, 0.5), _quantile(first, 0.95), failed, wrong_tokens)


def _quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share, method="higher")) if values else float("nan")


async def load_steps(house: House) -> dict[str, tuple[float, float]]:
    """By step of a load: how many the lora-server has measured, and their seconds together."""
    page = (await get(house.metrics, "/metrics")).body.decode()
    metric = "pointsman_lora_adapter_load_step_duration_seconds"
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in (f"{metric}_count", f"{metric}_sum"):
                found.setdefault(sample.labels["step"], [0.0, 0.0])[sample.name.endswith("_sum")] = sample.value
    return {step: (count, seconds) for step, (count, seconds) in found.items()}
