"""Runs requests through a fleet of simulated engines under one policy."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.placement.cases import Arrival
from benchmarks.placement.engine import Figures, SimulatedEngine
from benchmarks.placement.policies import LOAD_BOUND, Policy
from benchmarks.placement.processors import MakeProcessors, OwnMachines

MakePolicy = Callable[[Mapping[str, SimulatedEngine], Sequence[str]], Policy]
Choose = Callable[[Sequence[str], Mapping[str, SimulatedEngine]], str]
"""Returns the engine that gets a request, of those that a policy names."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of one run; seconds to the first token include loads."""

    requests: float
    loads: float
    first_token_p50: float
    first_token_p99: float
    tokens_per_second: float


def least_loaded(candidates: Sequence[str], fleet: Mapping[str, SimulatedEngine]) -> str:
    return min(candidates, key=lambda name: fleet[name].in_flight)


def by_conversation(seed: int) -> Choose:
    """Returns the rule of the gateway for conversations of one request each: an engine by the conversation's hash, or,
    if that has `LOAD_BOUND` times the mean number of requests, another one that has fewer.
    """
    dice = random.Random(seed)

    def choose(candidates: Sequence[str], fleet: Mapping[str, SimulatedEngine]) -> str:
        order = dice.sample(list(candidates), len(candidates))
        bound = LOAD_BOUND * (sum(fleet[name].in_flight for name in order) + 1) / len(order)
        return next(name for name in order if fleet[name].in_flight < bound)

    return choose


@dataclass(frozen=True, slots=True)
class World:
    """What surrounds the engines of a simulation."""

    make_processors: MakeProcessors = OwnMachines
    choose: Choose = least_loaded
    versions: Sequence[str] = ()
    """By the adapter's number, the version's name; without any, invented ones."""
    held: Mapping[str, Collection[str]] = field(default_factory=dict)
    """By engine, the versions that it holds at the start, the least recently used one first."""


def simulate(
    make_policy: MakePolicy, requests: Sequence[Arrival], engines: int, figures: Figures, world: World | None = None
) -> Outcome:
    """Sends each request to one of the policy's candidates: by default, on engines with machines of their own, to the
    least loaded one.
    """
    world = world or World()
    fleet = {f"engine-{number}": SimulatedEngine(f"engine-{number}", figures) for number in range(engines)}
    for name, held in world.held.items():
        fleet[name].held = dict.fromkeys(held, 0.0)
    adapters = max(request.adapter for request in requests) + 1
    versions = world.versions or [version_name(number) for number in range(adapters)]
    policy, processors = make_policy(fleet, versions), world.make_processors(fleet)
    waits, next_tick, ended_at = list[float](), 0.0, 0.0

    def advance(until: float) -> None:
        nonlocal ended_at
        for job in processors.advance(until):
            waits.append(job.first_token - job.request.at + figures.request)
            ended_at = max(ended_at, job.ended)

    for request in requests:
        while next_tick <= request.at:
            advance(next_tick)
            policy.on_tick(next_tick)
            next_tick += policy.tick_seconds
        advance(request.at)
        version = versions[request.adapter]
        policy.on_request(version)
        name = world.choose(policy.candidates(version, request.at), fleet)
        fleet[name].add(request, version)
        processors.start(name, request.at)
    advance(float("inf"))
    waits.sort()
    tokens = sum(request.completion_tokens for request in requests)
    return Outcome(
        len(waits),
        sum(engine.loads for engine in fleet.values()),
        waits[len(waits) // 2],
        waits[int(0.99 * len(waits))],
        tokens / ended_at,
    )


def version_name(number: int) -> str:
    """Returns a version's name; the names do not sort by popularity."""
    return f"adapter-{number * 7919 % 10_007}@{number:012x}"
