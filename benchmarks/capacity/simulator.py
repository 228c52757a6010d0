"""Simulates requests that arrive at a fleet of engines, and compares simulated with measured runs."""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from benchmarks.capacity.engine import Engine, Job
from benchmarks.capacity.inputs import EngineFigures, Measurements, PathLoad, Workload

TOLERANCE = 0.25
"""Largest accepted deviation of a simulated figure, as a share of the measured one; the machines are noisy."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """Statistics of the finished requests, without the first fifth (warm-up)."""

    requests: int
    seconds: float
    first_token_p50: float
    first_token_p95: float
    total_p50: float
    total_p95: float
    tokens_per_second: float
    """Tokens per second that all engines together generate."""
    busy: float
    """The share of the time in which the engines work."""
    hit_ratio: float
    """Of the requests with an adapter, the share that found it resident; 1 if no request has one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one run, measured and simulated."""

    run: str
    figure: str
    measured: float
    simulated: float
    fitted: bool

    @property
    def deviation(self) -> float:
        """The difference as a share of the measured figure."""
        return self.simulated / self.measured - 1

    @property
    def agrees(self) -> bool:
        return abs(self.deviation) <= TOLERANCE


def compare(measurements: Measurements, figures: EngineFigures) -> Sequence[Comparison]:
    """Simulates each measured run, and returns its figures, simulated and measured."""
    comparisons = []
    for run in measurements.runs:
        workload = Workload(requests_per_second=1, paths={"measured": run.path}, first_token_seconds=1)
        simulated = simulate_clients(workload, figures, run.clients, max(200, 20 * run.clients))
        comparisons += [
            Comparison(run.name, "tokens/s", run.tokens_per_second, simulated.tokens_per_second, run.fitted),
            Comparison(run.name, "p50 s", run.total_p50, simulated.total_p50, run.fitted),
        ]
    return comparisons


def simulate(workload: Workload, figures: EngineFigures, engines: int, requests: int, seed: int = 7) -> Simulation:
    """Simulates an open loop: requests arrive as a Poisson process at the workload's rate, however slow the answers
    are.
    """
    generator = random.Random(seed)
    draw = _job_factory(workload, generator)
    now, jobs = 0.0, []
    for _ in range(requests):
        now += generator.expovariate(workload.requests_per_second)
        jobs.append(draw(now))
    fleet = [Engine(figures) for _ in range(engines)]
    return _summarize(_run_open_loop(fleet, jobs), fleet)


def simulate_clients(
    workload: Workload, figures: EngineFigures, clients: int, requests: int, seed: int = 7
) -> Simulation:
    """Simulates a closed loop on one engine: each client sends the next request when its last one is answered."""
    draw, engine = _job_factory(workload, random.Random(seed)), Engine(figures)
    ended: list[Job] = []
    for _ in range(clients):
        engine.add(draw(0.0))
    while len(ended) < requests:
        for job in engine.step():
            ended.append(job)
            engine.add(draw(engine.now))
    return _summarize(ended, [engine])


def _run_open_loop(fleet: Sequence[Engine], jobs: Sequence[Job]) -> list[Job]:
    """Runs the jobs. The engines advance in the order of their clocks, so that each job is placed by their states at
    its arrival.
    """
    ended: list[Job] = []
    due: list[tuple[float, int]] = []
    for job in jobs:
        while due and due[0][0] <= job.arrived:
            ended += _step(fleet, due)
        place = _place(fleet, job)
        idle = not fleet[place].load
        fleet[place].add(job)
        if idle:
            heapq.heappush(due, (fleet[place].now, place))
    while due:
        ended += _step(fleet, due)
    return ended


def _step(fleet: Sequence[Engine], due: list[tuple[float, int]]) -> list[Job]:
    _, place = heapq.heappop(due)
    engine = fleet[place]
    ended = engine.step()
    if engine.load:
        heapq.heappush(due, (engine.now, place))
    return ended


def _place(fleet: Sequence[Engine], job: Job) -> int:
    """Chooses the least loaded engine; with an adapter, one that holds it unless that one is far more loaded."""
    least = min(range(len(fleet)), key=lambda place: (fleet[place].load, place))
    holding = [place for place in range(len(fleet)) if job.adapter >= 0 and fleet[place].holds(job.adapter)]
    if not holding:
        return least
    best = min(holding, key=lambda place: (fleet[place].load, place))
    return best if fleet[best].load <= 2 * fleet[least].load + 4 else least


def _job_factory(workload: Workload, generator: random.Random) -> Callable[[float], Job]:
    """Returns a function that draws a request: its path by the shares, its lengths around their means."""
    names = list(workload.paths)
    shares = [workload.paths[name].share for name in names]
    first = dict(zip(names, accumulate((path.adapters for path in workload.paths.values()), initial=0), strict=False))
    weights = {
        name: [1 / rank**workload.zipf_exponent for rank in range(1, path.adapters + 1)]
        for name, path in workload.paths.items()
    }

    def draw(at: float) -> Job:
        [name] = generator.choices(names, shares)
        path = workload.paths[name]
        adapter = -1
        if path.adapters:
            [adapter] = generator.choices(range(first[name], first[name] + path.adapters), weights[name])
        return Job(name, at, _unread_tokens(path, generator), _vary(path.completion_tokens, generator), adapter)

    return draw


def _unread_tokens(path: PathLoad, generator: random.Random) -> int:
    return _vary(path.prompt_tokens * (1 - path.cached_share), generator)


def _vary(mean: float, generator: random.Random) -> int:
    """Draws a length up to a third above or below the mean, because answers of one path have similar lengths."""
    return max(1, round(mean * generator.uniform(2 / 3, 4 / 3)))


def _summarize(ended: Sequence[Job], fleet: Sequence[Engine]) -> Simulation:
    counted = sorted(ended, key=lambda job: job.arrived)[len(ended) // 5 :]
    start, end = counted[0].arrived, max(job.ended for job in counted)
    with_adapter = sum(engine.hits + engine.loads for engine in fleet)
    first = sorted(job.first_token - job.arrived for job in counted)
    total = sorted(job.ended - job.arrived for job in counted)
    return Simulation(
        requests=len(counted),
        seconds=end - start,
        first_token_p50=_quantile(first, 0.5),
        first_token_p95=_quantile(first, 0.95),
        total_p50=_quantile(total, 0.5),
        total_p95=_quantile(total, 0.95),
        tokens_per_second=sum(job.written for job in counted) / (end - start),
        busy=sum(engine.busy for engine in fleet) / sum(engine.now for engine in fleet),
        hit_ratio=sum(engine.hits for engine in fleet) / with_adapter if with_adapter else 1.0,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
