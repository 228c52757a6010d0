"""Runs the fuzzers one after another, each for its share of the time, and collects their problems."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from tests.fuzz.problems import Problem
from tests.fuzz.rig import Hung
from tests.fuzz.watch import Watch


class Fuzzer(Protocol):
    """Makes random cases, and runs them against the services."""

    @property
    def name(self) -> str: ...

    @property
    def share(self) -> float:
        """The fuzzer's share of the whole time, relative to the others' shares."""
        ...

    @property
    def lanes(self) -> int:
        """The number of cases that run at the same time."""
        ...

    def make(self, random: Random, marker: str) -> Any:
        """Returns a case that depends on `random` only, and contains `marker` if an engine has to recognize it."""
        ...

    async def carry_out(self, case: Any) -> Problem | None:
        """Runs the case and returns what was wrong, if anything. Raises Hung, and OSError if the gateway has closed the
        connection.
        """
        ...


@dataclass
class Found:
    problem: Problem
    phase: str
    number: int
    """The number of the first case with the problem."""
    shown: str
    count: int = 1


@dataclass
class Report:
    found: dict[tuple[str, str], Found] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)

    def add(self, phase: str, problem: Problem, number: int, case: Any = None) -> None:
        key = phase, problem.sign
        if key in self.found:
            self.found[key].count += 1
            return
        self.found[key] = Found(problem, phase, number, repr(case)[:1500] if case is not None else "")
        print(f"FOUND {phase} case {number}: {problem.sign}\n      {problem.detail[:600]}", flush=True)


@dataclass
class Phase:
    """One fuzzer's run with a seed. Case N of a seed is always the same."""

    fuzzer: Fuzzer
    seed: int
    report: Report
    running: dict[int, Any] = field(default_factory=dict)
    is_ended: bool = False
    """Whether the phase was ended early."""

    async def run(self, seconds: float) -> None:
        """Runs cases for this time. The first one is not counted, because it may start a process."""
        await self.run_case(0)
        end = time.monotonic() + seconds
        numbers = itertools.count(1)

        async def lane() -> None:
            while time.monotonic() < end and not self.is_ended:
                await self.run_case(next(numbers))

        async with asyncio.TaskGroup() as group:
            for _ in range(self.fuzzer.lanes):
                group.create_task(lane())

    async def run_case(self, number: int) -> None:
        name = self.fuzzer.name
        self.report.cases[name] = self.report.cases.get(name, 0) + 1
        case = self.fuzzer.make(Random(f"{self.seed} {name} {number}"), f"case-{name}-{number}")
        self.running[number] = case
        try:
            problem = await self.fuzzer.carry_out(case)
        except Hung:
            problem = Problem("a request hangs beyond its deadline")
        except OSError as error:
            problem = Problem(f"{type(error).__name__} instead of an answer", str(error)[:300])
        finally:
            del self.running[number]
        if problem is not None:
            self.report.add(name, problem, number, case)

    def add(self, *problems: Problem) -> None:
        """Adds problems of the gateway's process, which cannot be assigned to a single case."""
        for problem in problems:
            self.report.add(self.fuzzer.name, problem, -1)


async def run_phase(phase: Phase, watch: Watch, seconds: float) -> None:
    """Runs the phase, and checks the gateway's process afterwards. Repeats it if its memory has grown too much."""
    if await _run_once(phase, watch, seconds) and await watch.grows() and await _run_once(phase, watch, seconds):
        phase.add(*await watch.grows_again())


async def _run_once(phase: Phase, watch: Watch, seconds: float) -> bool:
    """Returns whether the gateway's process lives."""
    async with _observing(phase, watch):
        await phase.run(seconds)
    phase.add(*watch.tracebacks())
    if not watch.is_alive():
        phase.add(Problem("the gateway's process is dead", watch.gateway.words[-800:]))
        return False
    phase.add(*await watch.in_flight())
    return True


@asynccontextmanager
async def _observing(phase: Phase, watch: Watch) -> AsyncIterator[None]:
    async def observe() -> None:
        while True:
            await asyncio.sleep(0.2)
            first = min(phase.running, default=-1)
            while watch.blocked:
                problem = Problem("the event loop is blocked", f"for {watch.blocked.pop():.1f} s of processor time")
                phase.report.add(phase.fuzzer.name, problem, first, phase.running)
            for problem in watch.tracebacks(is_complete=False):
                phase.report.add(phase.fuzzer.name, problem, first, phase.running)
            if watch.is_too_large() and not phase.is_ended:
                phase.is_ended = True
                problem = Problem("the gateway's memory grows", "so much that no further cases were sent")
                phase.report.add(phase.fuzzer.name, problem, first, phase.running)

    task = asyncio.create_task(observe())
    try:
        with watch.probing():
            yield
    finally:
        task.cancel()


def shares(fuzzers: Sequence[Fuzzer], seconds: float) -> list[float]:
    """Returns how many of the run's seconds each fuzzer gets, in the order of `fuzzers`."""
    total = sum(fuzzer.share for fuzzer in fuzzers)
    return [seconds * fuzzer.share / total for fuzzer in fuzzers]
