"""Requests come, each goes to the engine that is best placed, and what becomes of them is counted."""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pointsman_cli.capacity.engine import Engine, Job
from pointsman_cli.capacity.figures import EngineFigures
from pointsman_cli.capacity.workload import PathLoad, Workload


@dataclass(frozen=True, slots=True)
class Simulated:
    """Of the requests that ended, those of the first fifth left out."""

    requests: int
    seconds: float
    first_token_p50: float
    first_token_p95: float
    total_p50: float
    total_p95: float
    tokens_per_second: float
    """Written, by all engines."""
    busy: float
    """Share of the engines' time."""
    hit_ratio: float
    """Of requests with an adapter, those whose adapter was resident; 1 where there are none."""


def simulate(workload: Workload, figures: EngineFigures, engines: int, requests: int, seed: int = 7) -> Simulated:
    """Open: requests come by chance (Poisson) at the workload's rate, whatever becomes of those before."""
    random_ = random.Random(seed)
    draw = _draws(workload, random_)
    now, jobs = 0.0, []
    for _ in range(requests):
        now += random_.expovariate(workload.requests_per_second)
        jobs.append(draw(now))
    fleet = [Engine(figures) for _ in range(engines)]
    return _summed(_open(fleet, jobs), fleet)


def simulate_clients(
    workload: Workload, figures: EngineFigures, clients: int, requests: int, seed: int = 7
) -> Simulated:
    """Closed, with one engine: each client asks again as soon as it is answered, as benchmarks do."""
    draw, engine = _draws(workload, random.Random(seed)), Engine(figures)
    ended: list[Job] = []
    for _ in range(clients):
        engine.take(draw(0.0))
    while len(ended) < requests:
        for job in engine.step():
            ended.append(job)
            engine.take(draw(engine.now))
    return _summed(ended, [engine])


def _open(fleet: Sequence[Engine], jobs: Sequence[Job]) -> list[Job]:
    """Engines advance in the order of their own times, so that each is asked as it stands at that moment."""
    ended: list[Job] = []
    due: list[tuple[float, int]] = []
    for job in jobs:
        while due and due[0][0] <= job.begun:
            ended += _step(fleet, due)
        place = _placed(fleet, job)
        idle = not fleet[place].load
        fleet[place].take(job)
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


def _placed(fleet: Sequence[Engine], job: Job) -> int:
    """The least loaded; with an adapter, of those that hold it, unless they are far more loaded than others."""
    least = min(range(len(fleet)), key=lambda place: (fleet[place].load, place))
    holding = [place for place in range(len(fleet)) if job.adapter >= 0 and fleet[place].holds(job.adapter)]
    if not holding:
        return least
    best = min(holding, key=lambda place: (fleet[place].load, place))
    return best if fleet[best].load <= 2 * fleet[least].load + 4 else least


def _draws(workload: Workload, random_: random.Random) -> Callable[[float], Job]:
    """Makes a request that comes at a time: its path by the shares, its lengths around their means."""
    names = list(workload.paths)
    shares = [workload.paths[name].share for name in names]
    first = dict(zip(names, accumulate((path.adapters for path in workload.paths.values()), initial=0), strict=False))
    weights = {
        name: [1 / rank**workload.skew for rank in range(1, path.adapters + 1)] for name, path in workload.paths.items()
    }

    def draw(at: float) -> Job:
        [name] = random_.choices(names, shares)
        path = workload.paths[name]
        adapter = -1
        if path.adapters:
            [adapter] = random_.choices(range(first[name], first[name] + path.adapters), weights[name])
        return Job(name, at, _unread(path, random_), _around(path.completion_tokens, random_), adapter)

    return draw


def _unread(path: PathLoad, random_: random.Random) -> int:
    return _around(path.prompt_tokens * (1 - path.cached_share), random_)


def _around(mean: float, random_: random.Random) -> int:
    """A third up or down: answers of one path are of like length, not of the same."""
    return max(1, round(mean * random_.uniform(2 / 3, 4 / 3)))


def _summed(ended: Sequence[Job], fleet: Sequence[Engine]) -> Simulated:
    kept = sorted(ended, key=lambda job: job.begun)[len(ended) // 5 :]
    begun, until = kept[0].begun, max(job.ended for job in kept)
    wanted = sum(engine.hits + engine.loads for engine in fleet)
    first = sorted(job.first_token - job.begun for job in kept)
    total = sorted(job.ended - job.begun for job in kept)
    return Simulated(
        requests=len(kept),
        seconds=until - begun,
        first_token_p50=_at(first, 0.5),
        first_token_p95=_at(first, 0.95),
        total_p50=_at(total, 0.5),
        total_p95=_at(total, 0.95),
        tokens_per_second=sum(job.written for job in kept) / (until - begun),
        busy=sum(engine.busy for engine in fleet) / sum(engine.now for engine in fleet),
        hit_ratio=sum(engine.hits for engine in fleet) / wanted if wanted else 1.0,
    )


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
