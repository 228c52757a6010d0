"""Runs sixteen streams over the base model and three adapters while an alias or a version changes every two seconds."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.adapters import adapters
from benchmarks.adapters.alias_mover import AliasMover, MoveStatistics
from benchmarks.adapters.base_texts import QUESTIONS, base_texts
from benchmarks.adapters.known_texts import MARKS, SETS
from benchmarks.adapters.services import BASE, Services, ServicesPlan, run_services
from benchmarks.adapters.streaming_client import StreamingClients
from benchmarks.adapters.verdicts import AliasHistory, ExpectedTexts, Verdict, check_answers

MOVE_INTERVAL_SECONDS = 2.0
"""Time between two changes."""
MAX_TOKENS = 32
STREAMS_PER_MODEL = 4
"""Number of streams for the base model and for each adapter."""
INITIAL_VERSIONS = 2
"""Versions of each adapter that are registered before the load starts; the third is registered during it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Lengths of the phases in seconds."""

    calm: float
    """Length of each of the two phases without changes, before and after the changes."""
    moves: float
    needed_moves: Mapping[str, int] = field(default_factory=dict)
    """By kind, how many moves must succeed; until then, the phase of changes is extended."""


FULL = Extent(calm=40.0, moves=180.0)
QUICK = Extent(calm=15.0, moves=40.0)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between consecutive tokens."""

    p50: float
    p99: float
    longest: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class SwapResult:
    verdict: Verdict
    moves: MoveStatistics
    moves_seconds: float
    """Length of the phase with changes."""
    calm: Gaps
    moving: Gaps
    batch: int
    min_margin_nats: float
    """The smallest margin, in nats, by which an adapter prefers one of its tokens."""

    @property
    def rate_ratio(self) -> float:
        """Tokens per second during the changes, relative to the phases without changes."""
        return self.moving.tokens_per_second / self.calm.tokens_per_second

    @property
    def registrations_per_minute(self) -> float:
        """Registered versions per minute; 3.75 are due. Their tests take processor time that the engine could use."""
        return 60 * self.moves.count("register") / self.moves_seconds

    @property
    def gap_ratio(self) -> float:
        return self.moving.p99 / self.calm.p99


async def measure(folder: Path, extent: Extent) -> SwapResult:
    """Runs all phases. Raises CannotMeasure, and AioRpcError if the first versions cannot be registered."""
    sets = adapters.trained_adapters()
    plan = ServicesPlan(adapters=tuple(sets))
    async with run_services(folder, plan) as services:
        return await under_load(services, sets, extent, plan)


async def under_load(
    services: Services, sets: dict[str, list[adapters.TrainedAdapter]], extent: Extent, plan: ServicesPlan
) -> SwapResult:
    history, versions = AliasHistory(), dict[str, str]()
    mover = AliasMover(services, history, versions)
    await mover.start(sets, INITIAL_VERSIONS)
    known = ExpectedTexts(versions, await base_texts(services.engine, MAX_TOKENS), MARKS)
    await _fill_host_memory(services, mover, plan.held)
    async with StreamingClients(services.gateways[0], models(), QUESTIONS, MAX_TOKENS) as load:
        await load.until(lambda answers: len(answers) >= 2 * len(models()), timeout_s=180)  # warm-up
        calm = [await _wait(extent.calm)]
        started, answered = time.monotonic(), len(load.answers)
        await mover.run(started + extent.moves, MOVE_INTERVAL_SECONDS, extent.needed_moves)
        moving = (started, time.monotonic())
        # The second answer of each stream began after the first change, also on a slow engine.
        await load.until(lambda answers: len(answers) >= answered + 2 * len(models()), timeout_s=180)
        await _fill_host_memory(services, mover, plan.held)
        calm.append(await _wait(extent.calm))
    return SwapResult(
        check_answers(load.answers, known, history),
        mover.statistics,
        moving[1] - moving[0],
        gaps_of(load, calm),
        gaps_of(load, [moving]),
        plan.batch,
        adapters.min_margin_nats(),
    )


def models() -> list[str]:
    """Returns the models that the streams request: half of them by an alias, half by a path that uses it."""
    named = [BASE, *(f"{name}@prod" for name in SETS)] * (STREAMS_PER_MODEL // 2)
    return named + ["path:base", *(f"path:{name}" for name in SETS)] * (STREAMS_PER_MODEL - STREAMS_PER_MODEL // 2)


async def _fill_host_memory(services: Services, mover: AliasMover, held: int) -> None:
    """Fills the engine's host memory with versions, so that it holds equally many in both phases."""
    others = [version for versions in mover.aliases.values() for version in versions]
    resident = await services.resident()
    for version in others:
        if len(resident) >= held:
            return
        if version not in resident:
            await services.ensure(version)
            resident = await services.resident()


async def _wait(seconds: float) -> tuple[float, float]:
    started = time.monotonic()
    await asyncio.sleep(seconds)
    return started, time.monotonic()


def gaps_of(load: StreamingClients, stretches: Sequence[tuple[float, float]]) -> Gaps:
    found = [gap for started, ended in stretches for gap in load.gaps(started, ended)]
    p50, p99, longest = (1e3 * float(np.quantile(found, share, method="higher")) for share in (0.5, 0.99, 1.0))
    return Gaps(p50, p99, longest, len(found) / sum(ended - started for started, ended in stretches))
