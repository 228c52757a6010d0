"""Count the changes of a replay incrementally, in bounded memory."""

import heapq
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from pointsman_gateway.domain import UNKNOWN, Message

from pointsman_lab.recorded import Replayed

FAILS = "(fails)"

MAX_QUERY_CHARACTERS = 200
"""Characters of a request that are kept for an example."""


@dataclass(slots=True)
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count


@dataclass(frozen=True, slots=True)
class Move:
    """A kind of change: from one path to another. If both are equal, only the task changes."""

    path: str
    new_path: str
    task: str
    new_task: str


@dataclass(frozen=True, slots=True)
class Costs:
    """Dollars per 1,000 requests."""

    before: float
    after: float
    estimated: tuple[str, ...]
    """Paths that have never answered; their cost is estimated from lengths and the price list."""


@dataclass
class ReplayDiff:
    examples_of_each: int
    """How many of the most confident requests are kept for each change."""
    decisions: int = 0
    changed: int = 0
    moved: int = 0
    relabelled: int = 0
    newly_abstained: int = 0
    no_longer_abstained: int = 0
    failing: int = 0
    without_text: int = 0
    by_chance: int = 0
    weighed: int = 0
    of_changed_paths: Counter[str] = field(default_factory=Counter)
    """Requests along a path whose name is unchanged but whose configuration changed."""
    obstacles: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    generations: Counter[str] = field(default_factory=Counter)
    moves: Counter[Move] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self._examples: dict[Move, list[tuple[float, int, Replayed]]] = defaultdict(list)
        self._paid: dict[str, _Mean] = defaultdict(_Mean)
        self._expected: dict[str, _Mean] = defaultdict(_Mean)
        self._taken_before: Counter[str] = Counter()
        self._taken_after: Counter[str] = Counter()

    def add(self, replayed: Replayed) -> None:
        recorded = replayed.recorded
        self.decisions += 1
        self.generations[recorded.generation] += 1
        self.without_text += not recorded.has_text
        self.by_chance += replayed.by_chance
        self.weighed += replayed.weighed
        if recorded.answered_by:
            self._paid[recorded.answered_by].add(recorded.cost_usd)
        if replayed.obstacle:
            self.obstacles[replayed.obstacle] += 1
            return
        if replayed.failure:
            self.failing += 1
            self.failures[replayed.failure] += 1
        self._count_change(replayed)
        self._count_cost(replayed)

    @property
    def compared(self) -> int:
        return self.decisions - self.obstacles.total()

    @property
    def share(self) -> float:
        """Share of the comparable requests that change."""
        return self.changed / self.compared if self.compared else 0.0

    def costs(self) -> Costs:
        """Costs of the comparable requests that would be answered."""
        answered = max(self._taken_after.total(), 1)
        means = {path: self._mean(path) for path in {*self._taken_before, *self._taken_after}}
        before, after = (
            1000 / answered * sum(count * means[path] for path, count in taken.items())
            for taken in (self._taken_before, self._taken_after)
        )
        return Costs(before, after, tuple(sorted(path for path in means if path not in self._paid)))

    def examples(self, most: int) -> list[Replayed]:
        """Return examples: the most confident request of each change, most frequent changes first; then the second of
        each, and so on."""
        ranked = [
            [replayed for _, _, replayed in sorted(self._examples[move], key=lambda entry: entry[:2], reverse=True)]
            for move, _ in self.moves.most_common()
        ]
        in_turn = (r for each in itertools.zip_longest(*ranked) for r in each if r is not None)
        return list(itertools.islice(in_turn, most))

    def _count_change(self, replayed: Replayed) -> None:
        if not replayed.changed:
            return
        recorded, decision = replayed.recorded, replayed.decision
        self.changed += 1
        self.moved += replayed.moved
        if decision is None:
            move = Move(recorded.path, FAILS, recorded.labels.task, FAILS)
        else:
            move = Move(recorded.path, decision.path.name, recorded.labels.task, decision.task)
            self.relabelled += replayed.relabelled
            self.newly_abstained += replayed.relabelled and decision.task == UNKNOWN
            self.no_longer_abstained += replayed.relabelled and recorded.labels.task == UNKNOWN
        self.moves[move] += 1
        self._remember(move, replayed)

    def _remember(self, move: Move, replayed: Replayed) -> None:
        if not self.examples_of_each:
            return
        certainty = replayed.decision.confidence if replayed.decision else 1.0
        entry = (certainty, -next(self._order), _truncated(replayed))
        heap = self._examples[move]
        if len(heap) < self.examples_of_each:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def _count_cost(self, replayed: Replayed) -> None:
        recorded, decision = replayed.recorded, replayed.decision
        if decision is None:
            return
        self._taken_before[recorded.path] += 1
        self._taken_after[decision.path.name] += 1
        self._expected[recorded.path].add(recorded.expected_cost_usd)
        self._expected[decision.path.name].add(decision.expected_cost_usd)
        if not replayed.moved and recorded.fingerprint not in ("", decision.path.fingerprint):
            self.of_changed_paths[recorded.path] += 1

    def _mean(self, path: str) -> float:
        return self._paid[path].value if path in self._paid else self._expected[path].value


def _truncated(replayed: Replayed) -> Replayed:
    """Return the request with only the start of its query, to save memory."""
    request = replayed.recorded.request
    query = (Message("user", request.query[:MAX_QUERY_CHARACTERS]),)
    return replace(replayed, recorded=replace(replayed.recorded, request=replace(request, messages=query)))
