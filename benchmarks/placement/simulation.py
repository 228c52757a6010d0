"""Runs requests through a fleet of simulated engines under one policy."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.placement.cases import Arrival
from benchmarks.placement.engine import Figures, SimulatedEngine
from benchmarks.placement.policies import Policy

MakePolicy = Callable[[Mapping[str, SimulatedEngine], Sequence[str]], Policy]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of one run; seconds to the first token include loads."""

    requests: float
    loads: float
    first_token_p50: float
    first_token_p99: float
    tokens_per_second: float


def simulate(make_policy: MakePolicy, requests: Sequence[Arrival], engines: int, figures: Figures) -> Outcome:
    """Sends each request to the least loaded of the policy's candidates."""
    fleet = {f"engine-{number}": SimulatedEngine(f"engine-{number}", figures) for number in range(engines)}
    adapters = max(request.adapter for request in requests) + 1
    versions = [version_name(number) for number in range(adapters)]
    policy, waits, due = make_policy(fleet, versions), list[float](), list[tuple[float, str]]()
    next_tick, ended_at = 0.0, 0.0

    def advance(until: float) -> None:
        nonlocal ended_at
        while due and due[0][0] <= until:
            _, name = heapq.heappop(due)
            for job in fleet[name].step():
                waits.append(job.first_token - job.request.at)
                ended_at = max(ended_at, fleet[name].now)
            if fleet[name].in_flight:
                heapq.heappush(due, (fleet[name].now, name))

    for request in requests:
        while next_tick <= request.at:
            advance(next_tick)
            policy.on_tick(next_tick)
            next_tick += policy.tick_seconds
        advance(request.at)
        version = versions[request.adapter]
        policy.on_request(version)
        name = min(policy.candidates(version, request.at), key=lambda one: fleet[one].in_flight)
        was_idle = not fleet[name].in_flight
        fleet[name].add(request, version)
        if was_idle:
            heapq.heappush(due, (fleet[name].now, name))
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
