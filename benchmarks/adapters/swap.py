"""Sixteen streams over the base model and three adapters, while versions are moved under them every two seconds."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.adapters import adapters
from benchmarks.adapters.asking import Streams
from benchmarks.adapters.base_texts import QUESTIONS, base_texts
from benchmarks.adapters.configuration import BASE
from benchmarks.adapters.house import House, Plan, running
from benchmarks.adapters.known_texts import MARKS, SETS
from benchmarks.adapters.mover import Moved, Mover
from benchmarks.adapters.verdicts import Points, Texts, Verdict, judged

EVERY = 2.0
"""Seconds from one move to the next."""
MOST_TOKENS = 32
EACH = 4
"""Streams of the base model and of each adapter."""
AT_FIRST = 2
"""Versions of each adapter that are registered before the load begins; the third is registered under it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Seconds."""

    calm: float
    """Of the same load without moves, before and after, each."""
    moves: float


FULL = Extent(calm=40.0, moves=180.0)
QUICK = Extent(calm=15.0, moves=40.0)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds from a token to the next."""

    p50: float
    p99: float
    longest: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Swapped:
    verdict: Verdict
    moved: Moved
    calm: Gaps
    moving: Gaps
    batch: int
    least_gap: float
    """Nats of the adapter that is least sure of a token."""

    @property
    def rate_ratio(self) -> float:
        """Tokens a second while versions move, by those without moves."""
        return self.moving.tokens_per_second / self.calm.tokens_per_second

    @property
    def gap_ratio(self) -> float:
        return self.moving.p99 / self.calm.p99


async def measure(folder: Path, extent: Extent) -> Swapped:
    """Raises CannotMeasure, and AioRpcError where the first versions cannot be registered."""
    sets = adapters.trained()
    plan = Plan(adapters=tuple(sets))
    async with running(folder, plan) as house:
        return await under_load(house, sets, extent, plan)


async def under_load(house: House, sets: dict[str, list[adapters.Trained]], extent: Extent, plan: Plan) -> Swapped:
    points, versions = Points(), dict[str, str]()
    mover = Mover(house, points, versions)
    await mover.begin(sets, AT_FIRST)
    known = Texts(versions, await base_texts(house.engine, MOST_TOKENS), MARKS)
    await _fill(house, mover, plan.held)
    async with Streams(house.gateways[0], models(), QUESTIONS, MOST_TOKENS) as load:
        await load.until(lambda answers: len(answers) >= 2 * len(models()), within=180)  # everything is warm
        calm = [await _stretch(extent.calm)]
        begun = time.monotonic()
        await mover.move_on(begun + extent.moves, EVERY)
        moving = (begun, time.monotonic())
        await _fill(house, mover, plan.held)
        calm.append(await _stretch(extent.calm))
    return Swapped(
        judged(load.answers, known, points),
        mover.moved,
        gaps_of(load, calm),
        gaps_of(load, [moving]),
        plan.batch,
        adapters.least_gap(),
    )


def models() -> list[str]:
    """What the streams ask for: some by the alias, some by the path to it."""
    named = [BASE, *(f"{name}@prod" for name in SETS)] * (EACH // 2)
    return named + ["path:base", *(f"path:{name}" for name in SETS)] * (EACH - EACH // 2)


async def _fill(house: House, mover: Mover, held: int) -> None:
    """The engine's host memory is full, as it is while versions move: the ones that serve, and others beside them."""
    others = [version for versions in mover.aliases.values() for version in versions]
    resident = await house.resident()
    for version in others:
        if len(resident) >= held:
            return
        if version not in resident:
            await house.ensure(version)
            resident = await house.resident()


async def _stretch(seconds: float) -> tuple[float, float]:
    begun = time.monotonic()
    await asyncio.sleep(seconds)
    return begun, time.monotonic()


def gaps_of(load: Streams, stretches: Sequence[tuple[float, float]]) -> Gaps:
    found = [gap for begun, ended in stretches for gap in load.gaps(begun, ended)]
    p50, p99, longest = (1e3 * float(np.quantile(found, share, method="higher")) for share in (0.5, 0.99, 1.0))
    return Gaps(p50, p99, longest, len(found) / sum(ended - begun for begun, ended in stretches))
