"""Sends requests for many adapters, chosen by a Zipf distribution, to the gateway and then to bare vLLM.

Also measures the time to the first token of an adapter that the engine does not hold, while other streams run.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.adapters import adapters
from benchmarks.adapters.bare_vllm import bare_vllm
from benchmarks.adapters.base_texts import QUESTIONS
from benchmarks.adapters.services import ALIAS_SUFFIX, BASE, Services, ServicesPlan, run_services
from benchmarks.adapters.streaming_client import Answer, StreamingClients, stream_answer
from benchmarks.adapters.swap import Gaps, gaps_of
from benchmarks.adapters.verdicts import AliasHistory, AliasMove, ExpectedTexts, Verdict, check_answers
from benchmarks.gateway_load.http_client import get

FEW, MANY = 64, 256
BATCH, EXPONENT = 8, 1.1
CLIENTS = 16
MAX_TOKENS = 8
WARM_UP_REQUESTS = 32
"""Number of requests at the start that are not counted, to either side."""
MAX_CONCURRENT_REGISTRATIONS = 16
"""The number of versions that share one smoke test."""
MAX_SLOT_WAIT_SECONDS = 240
"""Time limit for a free slot: the smoke tests of other versions may take long on a busy machine."""
EXTRA_ADAPTERS = 4
"""Number of adapters beyond those that the engine can hold. They are registered so that some are not loaded when they
are requested."""
STREAMED_ADAPTERS, STREAM_TOKENS = 6, 48
"""How many adapters are streamed while another one is loaded, two streams each, and the tokens per stream. The other
clients use the base model."""
REQUEST = "{} passengers ask for the platform of the train to Larkmoor."


@dataclass(frozen=True, slots=True)
class Extent:
    requests: int
    """Number of requests to either side."""
    cold: int
    """Number of requests for an adapter that is not loaded."""
    calm: float
    """Seconds of streaming without loads."""
    tokens: int = MAX_TOKENS
    """Number of tokens per answer."""


FULL = Extent(requests=1000, cold=12, calm=20.0)
QUICK = Extent(requests=160, cold=5, calm=10.0)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Throughput and latency of one side: the gateway or bare vLLM."""

    responses_per_second: float
    tokens_per_second: float
    first_p50: float
    first_p95: float
    """95th percentile of the seconds to the first token."""
    failed: int
    wrong_tokens: int


@dataclass(frozen=True, slots=True)
class ColdLoadResult:
    """Results of requests for adapters that were not loaded, while 16 streams ran."""

    first_token_seconds: tuple[float, ...]
    """Seconds to the first token, one entry per request."""
    calm: Gaps
    loading: Gaps
    steps: Mapping[str, float]
    """By step of a load, the mean seconds as measured by the lora-server."""
    verdict: Verdict

    @property
    def p50(self) -> float:
        return float(np.median(self.first_token_seconds))

    @property
    def gap_ratio(self) -> float:
        return self.loading.p99 / self.calm.p99


@dataclass(frozen=True, slots=True)
class ZipfResult:
    adapters: int
    ours: LoadResult
    bare: LoadResult
    verdict: Verdict
    """The verdict on the gateway's answers."""
    hits: int
    """Number of requests whose version was loaded when they were sent."""
    cold: ColdLoadResult | None
    bare_load_p50: float | None = None
    """Seconds for an adapter on bare vLLM; None without adapters."""

    @property
    def hit_ratio(self) -> float:
        return self.hits / max(1, self.verdict.answers)

    @property
    def rate_ratio(self) -> float:
        return self.ours.responses_per_second / self.bare.responses_per_second

    @property
    def first_p95_ratio(self) -> float:
        return self.ours.first_p95 / self.bare.first_p95


async def measure(folder: Path, extent: Extent, count: int, *, with_cold: bool, engine_args: str = "") -> ZipfResult:
    """With 0 adapters all requests are for the base model, whose text is not checked. `engine_args` are further
    arguments of vLLM on both sides.

    Raises CannotMeasure, and AioRpcError if an adapter cannot be registered.
    """
    made = [(f"word{number:03}", one) for number, one in enumerate(adapters.constant_adapters(count + EXTRA_ADAPTERS))]
    constants, extra = dict(made[:count]), dict(made[count:])
    models = {name: f"{name}@{ALIAS_SUFFIX}" for name in constants} or {BASE: BASE}
    settings = {"SLOT_WAIT_TIMEOUT_SECONDS": str(MAX_SLOT_WAIT_SECONDS), "ENGINE_ARGS": engine_args}
    plan = ServicesPlan(
        held=max(1, count),
        batch=min(BATCH, max(1, count)),
        smoke=False,
        adapters=(*constants, *extra),
        settings=settings,
    )
    cold = None
    for side in ("ours", "bare"):
        (folder / side).mkdir(parents=True)
    async with run_services(folder / "ours", plan) as services:
        history, known_texts = AliasHistory(), dict[str, str]()
        texts = ExpectedTexts(known_texts, defaultdict(str), frozenset())
        await _register(services, constants, history, known_texts, extent.tokens)
        resident = await services.resident()
        hits = [0]

        async def ask_ours(name: str, question: str) -> Answer:
            hits[0] += name == BASE or history.current_version(models[name]) in resident
            return await stream_answer(services.gateways[0], models[name], question, extent.tokens)

        answers, seconds = await _send_requests(ask_ours, list(models), extent.requests)
        verdict = check_answers(answers, texts, history)
        ours = _summary(answers, seconds, verdict.failed, verdict.wrong_tokens)
        if with_cold:
            await _register(services, extra, history, known_texts, STREAM_TOKENS)
            cold = await _measure_cold_loads(services, history, texts, [*constants, *extra], extent)
    folders = {name: one.folder for name, one in constants.items()}
    async with bare_vllm(folder / "bare", folders, plan.batch, engine_args) as engine:

        async def ask_bare(name: str, question: str) -> Answer:
            return await stream_answer(engine.port, name, question, extent.tokens)

        answers, seconds = await _send_requests(ask_bare, list(models), extent.requests)
        failed = sum(bool(answer.error) for answer in answers)
        wrong = sum(
            piece != f" {constants[answer.requested].word}" and piece.strip() != constants[answer.requested].word
            for answer in answers
            if answer.requested != BASE
            for _, piece in answer.chunks
        )
        bare = _summary(answers, seconds, failed, wrong)
        loads = float(np.median(engine.load_seconds)) if engine.load_seconds else None
    return ZipfResult(count, ours, bare, verdict, hits[0] - WARM_UP_REQUESTS, cold, loads)


async def _register(
    services: Services,
    constants: Mapping[str, adapters.ConstantAdapter],
    history: AliasHistory,
    texts: dict[str, str],
    tokens: int,
) -> None:
    """Registers the adapters. Adds their aliases to `history`, and the texts of their versions, `tokens` long, to
    `texts`.
    """
    places = asyncio.Semaphore(MAX_CONCURRENT_REGISTRATIONS)

    async def register(name: str, adapter: adapters.ConstantAdapter) -> None:
        async with places:
            called = time.monotonic()
            version = await services.register(name, adapter.folder, ALIAS_SUFFIX)
            history.record(f"{name}@{ALIAS_SUFFIX}", AliasMove(version, called, time.monotonic()))
            texts[version] = adapter.text(tokens)

    await asyncio.gather(*(register(name, adapter) for name, adapter in constants.items()))


async def _send_requests(
    ask_for: Callable[[str, str], Awaitable[Answer]], names: list[str], requests: int
) -> tuple[list[Answer], float]:
    """Sends a sequence of requests, the same to either side. Returns the answers, and the seconds that they took."""
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
    started = time.monotonic()
    answers = await together(requests)
    return answers, time.monotonic() - started


def _requests(names: list[str], count: int) -> Iterator[tuple[str, str]]:
    """Yields the adapter's name and the question of each request."""
    ranks = 1.0 / np.arange(1, len(names) + 1) ** EXPONENT
    chosen = random.Random(7).choices(names, weights=list(ranks), k=count)
    return ((name, REQUEST.format(number)) for number, name in enumerate(chosen))


async def _measure_cold_loads(
    services: Services, history: AliasHistory, texts: ExpectedTexts, names: list[str], extent: Extent
) -> ColdLoadResult:
    streamed = names[:STREAMED_ADAPTERS]
    models = [f"{name}@{ALIAS_SUFFIX}" for name in streamed] * 2
    models += [BASE] * (CLIENTS - len(models))
    cold: list[Answer] = []
    async with StreamingClients(services.gateways[0], models, QUESTIONS, STREAM_TOKENS) as streams:
        await streams.until(lambda answers: len(answers) >= 2 * len(models), timeout_s=180)
        calm_from = time.monotonic()
        await asyncio.sleep(extent.calm)
        before, started = await load_steps(services), time.monotonic()
        for number in range(extent.cold):
            resident = await services.resident()
            aliases = (f"{name}@{ALIAS_SUFFIX}" for name in reversed(names))
            not_loaded = next(alias for alias in aliases if history.current_version(alias) not in resident)
            question = REQUEST.format(f"{number} cold")
            cold.append(await stream_answer(services.gateways[0], not_loaded, question, MAX_TOKENS))
        ended, after = time.monotonic(), await load_steps(services)
    of_adapters = [answer for answer in streams.answers if answer.requested != BASE]
    steps = {
        step: (after[step][1] - before[step][1]) / (after[step][0] - before[step][0])
        for step in after
        if after[step][0] > before[step][0]
    }
    return ColdLoadResult(
        tuple(answer.first_seconds for answer in cold),
        gaps_of(streams, [(calm_from, started)]),
        gaps_of(streams, [(started, ended)]),
        steps,
        check_answers([*cold, *of_adapters], texts, history),
    )


def _summary(answers: list[Answer], seconds: float, failed: int, wrong_tokens: int) -> LoadResult:
    first = [answer.first_seconds for answer in answers]
    rates = len(answers) / seconds, sum(len(answer.chunks) for answer in answers) / seconds
    return LoadResult(*rates, _quantile(first, 0.5), _quantile(first, 0.95), failed, wrong_tokens)


def _quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share, method="higher")) if values else float("nan")


async def load_steps(services: Services) -> dict[str, tuple[float, float]]:
    """Returns the number of loads and their total seconds, by step of a load, from the lora-server's metrics."""
    page = (await get(services.metrics, "/metrics")).body.decode()
    metric = "pointsman_lora_adapter_load_step_duration_seconds"
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in (f"{metric}_count", f"{metric}_sum"):
                found.setdefault(sample.labels["step"], [0.0, 0.0])[sample.name.endswith("_sum")] = sample.value
    return {step: (count, seconds) for step, (count, seconds) in found.items()}
