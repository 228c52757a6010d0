"""The ways of placing adapters that are compared: Pointsman's own, by its real code, and Dynamo's two algorithms."""

import math
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from pointsman_lora_server.adapters.demand import DemandMeter, MoveBudget
from pointsman_lora_server.adapters.demand_plan import Plan, PlanTerms, next_plan
from pointsman_lora_server.adapters.placement import engines_for
from pointsman_lora_server.adapters.rendezvous import ranked_engines
from pointsman_lora_server.domain import EngineReport, Placement
from scipy.optimize import linprog  # type: ignore[import-untyped]  # it ships no types
from scipy.sparse import coo_array  # type: ignore[import-untyped]  # it ships no types

from benchmarks.placement.engine import SimulatedEngine

LOAD_BOUND = 1.25
"""The gateway's `load_bound`: how much above the mean an engine's load may be when it is chosen by a hash."""
RATE_WINDOW_TICKS, EMA_ALPHA, COOLDOWN_TICKS = 30, 0.5, 3
"""Dynamo's defaults: arrivals are counted over 90 s and smoothed, and a version loses copies after 3 ticks."""
GAMMA_LOAD, BETA_KEEP, OVERFLOW_COST = 1000, 250, 10**5
"""Dynamo's costs of a new copy, its reward for a kept one, and the cost of a copy without a slot (10^12 there)."""

Fleet = Mapping[str, SimulatedEngine]


@cache
def ranking(version: str, engines: tuple[str, ...]) -> list[str]:
    return ranked_engines(version, engines)


class Policy(ABC):
    """A way of placing versions. `on_tick` runs every `tick_seconds`; `candidates` names the engines for a request."""

    tick_seconds = 3.0

    def __init__(self, fleet: Fleet, versions: Sequence[str]) -> None:
        self.fleet, self.versions, self.names = fleet, versions, tuple(fleet)

    @abstractmethod
    def on_tick(self, now: float) -> None: ...

    @abstractmethod
    def candidates(self, version: str, now: float) -> Sequence[str]:
        """Returns the engines of which the least loaded one gets the request; it loads the version if need be."""

    def on_request(self, version: str) -> None:  # noqa: B027  # most policies do not count requests
        """Is called for each request, before `candidates`."""


class ByPointsmansGateway(Policy):
    """Chooses engines by the gateway's rules, whatever places the versions: those that hold the version; else those
    that load it; else the first one by rendezvous hashing with bounded load, which begins to load it.
    """

    def candidates(self, version: str, now: float) -> Sequence[str]:
        holding = [name for name, engine in self.fleet.items() if version in engine.held]
        ready = [name for name in holding if self.fleet[name].is_ready(version, now)]
        if ready or holding:
            return ready or holding
        bound = LOAD_BOUND * (sum(engine.in_flight for engine in self.fleet.values()) + 1) / len(self.fleet)
        return [next(name for name in ranking(version, self.names) if self.fleet[name].in_flight < bound)]


class ByNumber(ByPointsmansGateway):
    """A number of copies, the same for all versions; None: on every engine."""

    def __init__(self, fleet: Fleet, versions: Sequence[str], copies: int | None = 1) -> None:
        super().__init__(fleet, versions)
        for name, engine in fleet.items():
            engine.placed = frozenset(v for v in versions if name in engines_for(v, Placement(copies), self.names))

    def on_tick(self, now: float) -> None:
        for engine in self.fleet.values():
            for version in self.versions:
                if version in engine.placed and len(engine.held) < engine.figures.held:
                    engine.load(version, now, may_displace_placed=False)


class ByDemand(ByPointsmansGateway):
    """Placement by demand, as the lora-servers compute it."""

    tick_seconds = 5.0
    terms = PlanTerms()
    moves_per_minute = 12.0

    def __init__(self, fleet: Fleet, versions: Sequence[str]) -> None:
        super().__init__(fleet, versions)
        self.plan = Plan()
        self.budget = MoveBudget(self.moves_per_minute)
        self.meters = {name: DemandMeter() for name in fleet}

    def on_tick(self, now: float) -> None:
        reports = []
        for name, engine in self.fleet.items():
            self.meters[name].record(engine.tokens, now)
            rates = self.meters[name].rates
            capacity = engine.figures.tokens_per_second
            reports.append(EngineReport(name, engine.figures.held, 0, capacity, frozenset(engine.held), rates))
        self.plan = next_plan(self.plan, reports, self.versions, self.budget.left(now), self.terms)
        self.budget.spend(len(self.plan.moves))
        placed: dict[str, set[str]] = {name: set() for name in self.fleet}
        for version, engines in self.plan.engines.items():
            for name in engines:
                placed[name].add(version)
        for name, engine in self.fleet.items():
            engine.placed = frozenset(placed[name])
        for move in self.plan.moves:
            self.fleet[move.engine].load(move.version, now, may_displace_placed=False)


class Dynamo(Policy):
    """Dynamo's controller with slot-aware rendezvous hashing: copies by the share of the arrivals, in all slots.

    Loads are made when a request arrives at an engine of the version's set that does not hold it.
    """

    def __init__(self, fleet: Fleet, versions: Sequence[str]) -> None:
        super().__init__(fleet, versions)
        self.capacity = {name: engine.figures.held for name, engine in fleet.items()}
        self.sets: dict[str, list[str]] = {}
        self.active: set[str] = set()
        self.window: deque[Counter[str]] = deque(maxlen=RATE_WINDOW_TICKS)
        self.arrived: Counter[str] = Counter()
        self.smoothed: dict[str, float] = {}
        self.shrunk_at: dict[str, int] = {}
        self.tick = 0

    def on_request(self, version: str) -> None:
        self.arrived[version] += 1

    def on_tick(self, now: float) -> None:
        self.tick += 1
        self.window.append(self.arrived)
        self.arrived = Counter()
        counts = sum(self.window, Counter())
        for version in counts.keys() | self.smoothed.keys():
            before = self.smoothed.get(version, float(counts[version]))
            self.smoothed[version] = before + EMA_ALPHA * (counts[version] - before)
        loads = {version: round(load) for version, load in self.smoothed.items() if round(load) > 0}
        self.active = set(loads)
        wanted = {
            version: self._after_cooldown(version, count)
            for version, count in sorted(replica_counts(loads, sum(self.capacity.values()), len(self.names)).items())
        }
        self.place(wanted, [version for version in self.versions if version not in loads])
        dropped = [version for version in sorted(loads) if version not in wanted]
        used = Counter(name for version, names in self.sets.items() if version not in dropped for name in names)
        for version in dropped:
            warm = [name for name in self.sets.get(version, ()) if version in self.fleet[name].held]
            self.sets[version] = warm or self._with_slots(version, 1, used, ())
            used.update(self.sets[version])

    def place(self, wanted: Mapping[str, int], inactive: Sequence[str]) -> None:
        used = Counter({name: len(engine.held) for name, engine in self.fleet.items()})
        for version, copies in wanted.items():
            own = {name for name, engine in self.fleet.items() if version in engine.held}
            seen = Counter({name: used[name] - (name in own) for name in self.names})
            self.sets[version] = self._with_slots(version, copies, seen, self.sets.get(version, ()))
            used.update(name for name in self.sets[version] if name not in own)
        for version in inactive:
            self.sets[version] = ranking(version, self.names)[:1]
            self.shrunk_at.pop(version, None)

    def candidates(self, version: str, now: float) -> Sequence[str]:
        names = self.sets.get(version)
        if names is None or version not in self.active:
            if names:
                return names[:1]
            return [name for name in self.names if version in self.fleet[name].held] or self.names
        return [name for name in names if version in self.fleet[name].held] or names

    def _with_slots(self, version: str, copies: int, used: Mapping[str, int], prior: Sequence[str]) -> list[str]:
        free = [name for name in ranking(version, self.names) if used[name] < self.capacity[name]]
        chosen = [*(name for name in free if name in prior), *(name for name in free if name not in prior)][:copies]
        return chosen or ranking(version, self.names)[:copies]

    def _after_cooldown(self, version: str, copies: int) -> int:
        current = len(self.sets.get(version, ()))
        if copies >= current:
            self.shrunk_at.pop(version, None)
            return copies
        if self.tick - self.shrunk_at.setdefault(version, self.tick) < COOLDOWN_TICKS:
            return current
        self.shrunk_at[version] = self.tick
        return copies


class DynamoMinCostFlow(Dynamo):
    """Dynamo's controller with a min-cost flow: all copies are assigned at once, so that few are new."""

    def __init__(self, fleet: Fleet, versions: Sequence[str]) -> None:
        super().__init__(fleet, versions)
        self.before: dict[str, set[str]] = {}
        self.counts: dict[str, int] = {}

    def place(self, wanted: Mapping[str, int], inactive: Sequence[str]) -> None:
        for version in inactive:
            self.shrunk_at.pop(version, None)
        counts = {**wanted, **dict.fromkeys(inactive, 1)}
        frozen = {v: set(self.before[v]) for v in counts if v in self.before and self.counts.get(v) == counts[v]}
        placed, overflow = self._solve(counts, frozen)
        if overflow and frozen and sum(self.capacity.values()) > sum(counts.values()) - overflow:
            again, less = self._solve(counts, {})
            placed, overflow = (again, less) if less < overflow else (placed, overflow)
        self.before, self.counts = placed, counts
        used = Counter(name for names in placed.values() for name in names)
        for version in counts:
            if version in placed:
                self.sets[version] = sorted(placed[version])
                continue
            warm = [name for name in self.sets.get(version, ()) if version in self.fleet[name].held]
            self.sets[version] = warm or self._with_slots(version, 1, used, ())
            used.update(self.sets[version])

    def _solve(self, counts: Mapping[str, int], frozen: Mapping[str, set[str]]) -> tuple[dict[str, set[str]], int]:
        """Returns where the copies are, and how many have no slot. The constraints are those of a flow, so the linear
        program has a solution of whole numbers."""
        left = {v: count - len(frozen.get(v, ())) for v, count in counts.items()}
        todo = [v for v in sorted(counts) if left[v] > 0]
        placed = {v: set(names) for v, names in frozen.items() if names}
        used = Counter(name for names in frozen.values() for name in names)
        room = [max(0, self.capacity[name] - used[name]) for name in self.names]
        if not todo:
            return placed, 0
        edges = [
            (v, n) for v in range(len(todo)) for n in range(len(room)) if self.names[n] not in frozen.get(todo[v], ())
        ]
        costs = [self._cost(todo[v], self.names[n]) for v, n in edges] + [OVERFLOW_COST] * len(todo)
        rows = [v for v, _ in edges] + list(range(len(todo)))
        of_version = coo_array((np.ones(len(rows)), (rows, range(len(rows)))), shape=(len(todo), len(rows)))
        of_engine = coo_array(
            (np.ones(len(edges)), ([n for _, n in edges], range(len(edges)))), shape=(len(room), len(rows))
        )
        bounds = [(0, 1)] * len(edges) + [(0, left[v]) for v in todo]
        solved = linprog(costs, of_engine, room, of_version, [left[v] for v in todo], bounds, method="highs")

        for (v, n), flow in zip(edges, solved.x, strict=False):
            if flow > 0.5:
                placed.setdefault(todo[v], set()).add(self.names[n])
        return placed, round(sum(solved.x[len(edges) :]))

    def _cost(self, version: str, name: str) -> int:
        rank = ranking(version, self.names).index(name)
        return rank - BETA_KEEP if name in self.before.get(version, ()) else rank + GAMMA_LOAD


class DynamoByGateway(ByPointsmansGateway, Dynamo):
    """Dynamo's rendezvous hashing behind Pointsman's gateway."""

    def candidates(self, version: str, now: float) -> Sequence[str]:
        names = Dynamo.candidates(self, version, now)
        if any(version in self.fleet[name].held for name in names) or len(names) in range(2, len(self.names)):
            return names
        return ByPointsmansGateway.candidates(self, version, now)


class MinCostFlowByGateway(DynamoByGateway, DynamoMinCostFlow):
    """Dynamo's min-cost flow behind Pointsman's gateway."""


def replica_counts(loads: Mapping[str, int], slots: int, engines: int) -> dict[str, int]:
    """Returns Dynamo's numbers of copies: each version's share of the load, of all slots; at least one, at most one per
    engine, and scaled down to the slots by largest remainders. Beyond one version per slot, the least used get none.
    """
    ranked = sorted(loads.items(), key=lambda item: (-item[1], item[0]))[:slots]
    total = sum(load for _, load in ranked)
    raw = {name: min(float(engines), max(1.0, math.ceil(load / total * slots))) for name, load in ranked}
    if sum(raw.values()) <= slots:
        return {name: int(count) for name, count in raw.items()}
    scale = slots / sum(raw.values())
    scaled = {name: max(1.0, count * scale) for name, count in raw.items()}
    counts = {name: int(count) for name, count in scaled.items()}
    left = max(0, slots - sum(counts.values()))
    for name in sorted(scaled, key=lambda name: (-(scaled[name] - counts[name]), name)):
        if left and counts[name] < engines:
            counts[name] += 1
            left -= 1
    return counts
