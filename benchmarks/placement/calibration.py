"""Measures the times of real engines that share the machine's cores, and fits the simulator's figures to them."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from statistics import fmean, median

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]  # it ships no types

from benchmarks.adapters.streaming_client import Answer, stream_answer
from benchmarks.gateway_load.machine import CannotMeasure
from benchmarks.placement.engine import Figures
from benchmarks.placement.fleet import EngineNode, Fleet
from benchmarks.placement.prompts import PromptMaker

WARM_UP_SECONDS = 1.5
IDLE_LOADS, BUSY_LOADS = 4, 4
"""Loads measured on each engine while all are idle, and while all generate."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """The same load on each of the first `engines` engines: clients that send their next request once the last one is
    answered, each with an adapter of its own.
    """

    engines: int
    clients: int
    prompt: int
    tokens: int


@dataclass(frozen=True, slots=True)
class LoopResult:
    loop: ClosedLoop
    tokens_per_second: float
    """Of one engine, on average."""
    first_token: float
    """Mean seconds to the first token."""

    @property
    def step_seconds(self) -> float:
        """The mean seconds of a step, since each gives every client one token."""
        return self.loop.clients / self.tokens_per_second


ALONE = (
    ClosedLoop(1, 1, 48, 32),
    ClosedLoop(1, 4, 48, 32),
    ClosedLoop(1, 1, 112, 4),
    ClosedLoop(1, 2, 64, 8),
)
"""One engine generates and the others are idle: `fit_steps` uses these."""
TOGETHER = tuple(ClosedLoop(engines, clients, 48, 8) for engines in (1, 2, 3, 4) for clients in (1, 3))
"""The same load on one to four engines: `fit_speeds` uses these."""


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """Seconds of loads of adapters, as the caller of the lora-server sees them."""

    idle: tuple[float, ...]
    """One after the other, while no engine generates."""
    busy: tuple[float, ...]
    """One after the other, while all engines generate."""
    stalls: tuple[float, ...]
    """For each of the busy ones, the engine's longest gap between two tokens meanwhile, less the usual gap."""


async def measure(fleet: Fleet, prompts: PromptMaker, seconds: float) -> tuple[list[LoopResult], LoadTimes]:
    """Runs each loop for `seconds`, then measures loads. Raises CannotMeasure if an engine does not answer."""
    results = []
    for loop in (*ALONE, *TOGETHER):
        held = [sorted(await node.resident()) for node in fleet.nodes]
        await _send(fleet.nodes, held, loop, prompts, _timer(WARM_UP_SECONDS))
        answers = await _send(fleet.nodes, held, loop, prompts, _timer(seconds))
        results.append(summary(loop, answers))
        print(
            f"  {loop}: {results[-1].tokens_per_second:.1f} tokens/s, first {results[-1].first_token:.3f} s", flush=True
        )
    idle = [await _time_load(node, fleet.versions) for _ in range(IDLE_LOADS) for node in fleet.nodes]
    return results, LoadTimes(tuple(idle), *await _load_while_busy(fleet, prompts))


def summary(loop: ClosedLoop, answers: Sequence[Answer]) -> LoopResult:
    durations = [each.ended - each.started for each in answers]
    return LoopResult(
        loop, loop.clients * loop.tokens / fmean(durations), fmean(each.first_seconds for each in answers)
    )


def fit_steps(results: Sequence[LoopResult]) -> dict[str, float]:
    """Fits step, row and prompt token by non-negative least squares, relative to the step's seconds, and what a request
    takes besides its first step, such as the work of the API server.
    """
    alone = [each for each in results if each.loop.engines == 1]
    rows, right = [], []
    for each in alone:
        loop, seconds = each.loop, each.step_seconds
        read = loop.clients * loop.prompt / loop.tokens
        generated = loop.clients * (loop.tokens - 1) / loop.tokens
        rows.append([1.0 / seconds, generated / seconds, read / seconds])
        right.append(1.0)
    (step, row, prompt_token), _ = nnls(np.array(rows), np.array(right))
    first = [each.first_token - (step + each.loop.prompt * prompt_token) for each in alone if each.loop.clients == 1]
    return {"step": step, "row": row, "prompt_token": prompt_token, "request": max(0.0, fmean(first))}


def fit_speeds(results: Sequence[LoopResult], engines: int) -> tuple[float, ...]:
    """Returns, by the number of busy engines from 1, an engine's speed as a share of its speed alone."""
    by_loop = {each.loop: each.tokens_per_second for each in results if each.loop in TOGETHER}
    speeds = []
    for busy in range(1, engines + 1):
        of = [loop for loop in by_loop if loop.engines == busy]
        speeds.append(
            fmean(by_loop[loop] / by_loop[ClosedLoop(1, loop.clients, loop.prompt, loop.tokens)] for loop in of)
        )
    return tuple(min(1.0, speed) for speed in speeds)


async def _send(
    nodes: Sequence[EngineNode],
    versions: Sequence[Sequence[str]],
    loop: ClosedLoop,
    prompts: PromptMaker,
    is_over: Callable[[], bool],
) -> list[Answer]:
    """Runs the loop with these versions of each engine, and returns the answers. A version that the engine has evicted
    is loaded again. Raises CannotMeasure if a request fails for another reason.
    """
    answers = list[Answer]()

    async def client(node: EngineNode, version: str) -> None:
        while not is_over():
            answer = await stream_answer(node.port, version, prompts.prompt(loop.prompt), loop.tokens)
            if answer.status == HTTPStatus.NOT_FOUND:
                await node.load(version)
            elif answer.error:
                raise CannotMeasure(f"{node.name} does not answer: {answer.error}")
            else:
                answers.append(answer)

    clients = [
        client(node, held[number % len(held)])
        for node, held in zip(nodes[: loop.engines], versions, strict=False)
        for number in range(loop.clients)
    ]
    await asyncio.gather(*clients)
    return answers


def _timer(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


async def _time_load(node: EngineNode, versions: Sequence[str]) -> float:
    resident = await node.resident()
    version = random.choice([each for each in versions if each not in resident])
    began = time.monotonic()
    await node.load(version)
    return time.monotonic() - began


async def _load_while_busy(fleet: Fleet, prompts: PromptMaker) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Loads adapters while each engine generates with another one, so that an idle one can be evicted."""
    loop, is_over = ClosedLoop(len(fleet.nodes), 2, 48, 32), asyncio.Event()
    used = [sorted(await node.resident())[:1] for node in fleet.nodes]
    spans = list[tuple[str, float, float]]()
    sending = asyncio.create_task(_send(fleet.nodes, used, loop, prompts, is_over.is_set))
    await asyncio.sleep(2 * WARM_UP_SECONDS)
    for _, node in itertools.product(range(BUSY_LOADS), fleet.nodes):
        began = time.monotonic()
        spans.append((node.name, began, began + await _time_load(node, fleet.versions)))
    is_over.set()
    answers = await sending
    engine_of = {version: node.name for node, versions in zip(fleet.nodes, used, strict=True) for version in versions}
    return tuple(end - began for _, began, end in spans), tuple(stalls(answers, engine_of, spans))


def stalls(
    answers: Sequence[Answer], engine_of: Mapping[str, str], spans: Sequence[tuple[str, float, float]]
) -> list[float]:
    """Returns for each span of a load (engine, begin, end) by how much the longest gap between two tokens of an answer
    on this engine exceeds the median gap.
    """
    gaps = [
        (engine_of[answer.requested], before, after)
        for answer in answers
        for (before, _), (after, _) in itertools.pairwise(answer.chunks)
    ]
    usual = median(after - before for _, before, after in gaps)
    longest = [
        max(
            (after - before for name, before, after in gaps if name == engine and after > began and before < end),
            default=usual,
        )
        for engine, began, end in spans
    ]
    return [max(0.0, each - usual) for each in longest]


def figures_of(results: Sequence[LoopResult], loads: LoadTimes, held: int, in_batch: int) -> Figures:
    """Returns the simulator's figures. The seconds of a load are those on idle engines, and its stall is the measured
    one at the speed of an engine alone.
    """
    speed = fit_speeds(results, max(each.loop.engines for each in results))[-1]
    times = fit_steps(results)
    return Figures(
        step=times["step"],
        row=times["row"],
        prompt_token=times["prompt_token"],
        request=times["request"],
        load=median(loads.idle),
        load_stall=min(median(loads.idle), median(loads.stalls) * speed),
        held=held,
        in_batch=in_batch,
    )
