"""Compares the simulation with real engines: four vLLMs on this machine's cores get the same requests.

The engines' times are measured before, by `calibrate`; nothing is fitted to the cases.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.adapters.adapters import FOLDER, constant_adapters
from benchmarks.adapters.streaming_client import Answer, stream_answer
from benchmarks.gateway_load.machine import ROOT, CannotMeasure, describe_machine
from benchmarks.placement.calibration import LoadTimes, LoopResult, figures_of, fit_speeds, measure
from benchmarks.placement.cases import Arrival, Load, arrivals
from benchmarks.placement.cpu_use import CpuUse
from benchmarks.placement.engine import Figures
from benchmarks.placement.fleet import Fleet, FleetPlan, run_fleet
from benchmarks.placement.policies import ByDemand
from benchmarks.placement.processors import SharedCores
from benchmarks.placement.prompts import PromptMaker, measured_by
from benchmarks.placement.simulation import Outcome, World, by_conversation, simulate

ENGINES, HELD, IN_BATCH = 4, 2, 2
LOAD = Load(adapters=16, ticks=66, requests_per_tick=3.6)
STATED_TOKENS_PER_SECOND = 40.0
"""What is stated to placement by demand as the tokens per second of a busy engine, real or simulated."""
PROMPT_TOKENS, COMPLETION_TOKENS = 48.0, 4.0
CALIBRATION_SECONDS = 8.0
"""Length of each loop of the calibration."""
QUIET_SECONDS = 10.0
"""Time without requests before a case, in which the first plan is made."""
SIMULATIONS = 21
"""Simulations of a case, which differ in the hashes by which the gateway chooses engines."""
MAX_MAKING_SECONDS = 300.0
DEFAULT_CASES = ("zipf", "flash crowd")
ADAPTERS_FOLDER = FOLDER
FIGURES_FILE = ROOT / "build/placement/figures.json"
TOLERANCE = 0.2


@dataclass(frozen=True, slots=True)
class Calibration:
    """The times of the engines, as measured in a run of its own."""

    figures: Figures
    speeds: tuple[float, ...]
    """By the number of busy engines from 1, an engine's speed as a share of its speed alone."""
    about: str
    loops: tuple[LoopResult, ...] = ()
    loads: LoadTimes | None = None

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Calibration":
        """Reads the figures and speeds. Raises CannotMeasure if the file does not exist."""
        if not file.exists():
            raise CannotMeasure(f"{file} is missing: run with --calibrate first")
        found = json.loads(file.read_text())
        return cls(Figures(**found["figures"]), tuple(found["speeds"]), found["about"])


@dataclass(frozen=True, slots=True)
class Measured:
    outcome: Outcome
    failed: int
    first_tokens: list[float]
    """By request, the seconds to the first token."""
    versions: tuple[str, ...]
    """By the adapter's number."""
    held: dict[str, list[str]]
    """By engine, the versions that it held at the start."""
    moves: dict[str, float]
    """Loads that placement by demand has planned, by reason."""
    engines_cpu: float
    """Share of the cores' time that the services and the client took."""
    other_cpu: float
    """Share that other processes of the machine took."""


@dataclass(frozen=True, slots=True)
class Comparison:
    measured: Measured
    simulated: Outcome
    """Medians of the simulations."""
    lowest: Outcome
    highest: Outcome
    own_machines: Outcome
    """Simulated as in the other mode: each engine has a machine of its own, and the least loaded one is chosen."""

    def ratio(self, name: str) -> float:
        """Returns the measured value as a share of the simulated one."""
        return float(getattr(self.measured.outcome, name) / getattr(self.simulated, name))


@asynccontextmanager
async def _running_fleet(adapters: Path) -> AsyncIterator[tuple[Fleet, PromptMaker]]:
    """Runs engines that have loaded each adapter once. Raises CannotMeasure."""
    constants = constant_adapters(LOAD.adapters, MAX_MAKING_SECONDS, adapters)
    plan = FleetPlan(ENGINES, HELD, IN_BATCH, LOAD.adapters, STATED_TOKENS_PER_SECOND)
    with tempfile.TemporaryDirectory(prefix="placement-") as folder:
        async with run_fleet(Path(folder), plan, constants) as fleet:
            await load_everything_once(fleet)
            yield fleet, await measured_by(fleet.nodes[0].port)


async def calibrate(figures: Path, adapters: Path) -> None:
    """Measures the engines' times while they are together on the machine's cores, and writes them to the file
    `figures`. Raises CannotMeasure.
    """
    async with _running_fleet(adapters) as (fleet, prompts):
        use = CpuUse.now()
        loops, loads = await measure(fleet, prompts, CALIBRATION_SECONDS)
        _, others = CpuUse.now().shares_since(use)
    about = f"{describe_machine()}; other processes took {others:.0%} of the cores"
    found = figures_of(loops, loads, HELD, IN_BATCH)
    times = replace(found, stated_tokens_per_second=STATED_TOKENS_PER_SECOND)
    calibration = Calibration(times, fit_speeds(loops, ENGINES), about, tuple(loops), loads)
    calibration.write(figures)
    print(json.dumps(asdict(calibration)))


async def compare_cases(figures: Path, adapters: Path, cases: Sequence[str], seed: int) -> None:
    """Runs the cases one after the other on the same engines, and prints the comparison of each with its simulation.
    Raises CannotMeasure.
    """
    calibration, compared = Calibration.read(figures), dict[str, Comparison]()
    print(f"times: {calibration.about}\n{calibration.figures}\nspeeds {calibration.speeds}", flush=True)
    async with _running_fleet(adapters) as (fleet, prompts):
        for case in cases:
            compared[case] = await compare_case(fleet, prompts, calibration, case, seed)
    reports = {case: asdict(comparison) for case, comparison in compared.items()}
    print(json.dumps({"machine": describe_machine(), "seed": seed, "calibration": asdict(calibration), **reports}))


async def compare_case(
    fleet: Fleet, prompts: PromptMaker, calibration: Calibration, case: str, seed: int
) -> Comparison:
    """Runs a case on the engines, simulates it, and prints both."""
    requests = arrivals(case, LOAD, seed, PROMPT_TOKENS, COMPLETION_TOKENS)
    await asyncio.sleep(QUIET_SECONDS)
    measured = await run_case(fleet, requests, prompts)
    comparison = compare(requests, measured, calibration)
    print(table(case, comparison), flush=True)
    return comparison


async def load_everything_once(fleet: Fleet) -> None:
    """Loads each version into each engine, since a version's first load also runs a trial of it. In the end, the
    engines hold different versions.
    """

    async def load(number: int) -> None:
        first = number * len(fleet.versions) // len(fleet.nodes)
        for version in (*fleet.versions[first:], *fleet.versions[:first]):
            await fleet.nodes[number].load(version)

    await asyncio.gather(*(load(number) for number in range(len(fleet.nodes))))


async def run_case(fleet: Fleet, requests: Sequence[Arrival], prompts: PromptMaker) -> Measured:
    """Sends each request at its time, whether earlier ones are answered or not."""
    held = {node.name: sorted(await node.resident()) for node in fleet.nodes}
    loads, moves, use = await fleet.loads(), await fleet.moves(), CpuUse.now()
    texts = [prompts.prompt(request.prompt_tokens) for request in requests]
    began = time.monotonic()

    async def send(request: Arrival, text: str) -> Answer:
        await asyncio.sleep(began + request.at - time.monotonic())
        return await stream_answer(fleet.gateway, fleet.aliases[request.adapter], text, request.completion_tokens)

    answers = await asyncio.gather(*map(send, requests, texts))
    engines_cpu, other_cpu = CpuUse.now().shares_since(use)
    after = await fleet.moves()
    return Measured(
        outcome_of(answers, await fleet.loads() - loads, began),
        sum(bool(each.error) for each in answers),
        [round(each.first_seconds, 4) for each in answers],
        fleet.versions,
        held,
        {reason: after[reason] - before for reason, before in moves.items()},
        engines_cpu,
        other_cpu,
    )


def outcome_of(answers: Sequence[Answer], loads: float, began: float) -> Outcome:
    """Returns the outcome as the simulation computes it; answers with an error count with their whole time."""
    waits = sorted(each.first_seconds for each in answers)
    tokens = sum(len(each.chunks) for each in answers)
    seconds = max(each.ended for each in answers) - began
    return Outcome(len(answers), loads, waits[len(waits) // 2], waits[int(0.99 * len(waits))], tokens / seconds)


def compare(requests: Sequence[Arrival], measured: Measured, calibration: Calibration) -> Comparison:
    """Simulates the requests from the state that the real engines had at the start."""
    shared = partial(SharedCores, speeds=calibration.speeds)
    run = partial(simulate, ByDemand, requests, ENGINES, calibration.figures)
    runs = [run(World(shared, by_conversation(seed), measured.versions, measured.held)) for seed in range(SIMULATIONS)]
    own = run(World(versions=measured.versions, held=measured.held))
    middle, lowest, highest = (
        Outcome(**{each.name: function(getattr(one, each.name) for one in runs) for each in fields(Outcome)})
        for function in (median, min, max)
    )
    return Comparison(measured, middle, lowest, highest, own)


def table(case: str, comparison: Comparison) -> str:
    """Returns the measured and the simulated values side by side."""
    measured = comparison.measured
    lines = [
        f"\n{case}: {measured.outcome.requests} requests, {measured.failed} failed; planned loads {measured.moves}; "
        f"services and client took {measured.engines_cpu:.0%} of the cores, other processes {measured.other_cpu:.0%}",
        f"  {'':<20}{'measured':>10}{'simulated':>11}{'lowest':>9}{'highest':>9}{'measured/simulated':>20}"
        f"{'own machines':>14}",
    ]
    for name in ("loads", "first_token_p50", "first_token_p99", "tokens_per_second"):
        values = [
            float(getattr(one, name))
            for one in (measured.outcome, comparison.simulated, comparison.lowest, comparison.highest)
        ]
        ratio = comparison.ratio(name)
        note = "" if abs(ratio - 1) <= TOLERANCE else f"  more than {TOLERANCE:.0%} off"
        lines.append(
            f"  {name:<20}{values[0]:10.2f}{values[1]:11.2f}{values[2]:9.2f}{values[3]:9.2f}{ratio:20.2f}"
            f"{getattr(comparison.own_machines, name):14.2f}{note}"
        )
    return "\n".join(lines)
