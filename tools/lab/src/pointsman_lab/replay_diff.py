"""Counts what a replay of recorded requests would change, one decision at a time, in bounded memory."""

import heapq
import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from pointsman_gateway.domain import UNKNOWN, Decision, Message

from pointsman_lab.request_log import RecordedDecision

FAILS = "(fails)"

MAX_QUERY_CHARACTERS = 200
"""The number of characters of a request's query that are kept if the request is an example in the report."""


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """A recorded decision, and the decision of another configuration for the same request."""

    recorded: RecordedDecision
    decision: Decision | None
    """The decision of the other configuration; None if it fails or cannot be determined."""
    failure: str = ""
    """The error that the caller would get from the other configuration; empty if none."""
    not_comparable: str = ""
    """Why the decision of the other configuration cannot be determined; empty if it can."""
    redrawn: bool = False
    """Whether a random choice was made again, because it depends on a user's name that was not stored.

    The new choice is the same in each replay.
    """
    by_evidence: bool = False
    """Whether the policy decides by ratings and costs of paths; a replay uses the present ones, not those at the time
    of the request.
    """

    @property
    def moved(self) -> bool:
        """Returns whether the other configuration chooses another path; False if it has no decision."""
        return self.decision is not None and self.decision.path.name != self.recorded.path

    @property
    def relabelled(self) -> bool:
        """Returns whether the other configuration assigns the request to another task; False if it has no decision."""
        return self.decision is not None and self.decision.task != self.recorded.labels.task

    @property
    def changed(self) -> bool:
        return bool(self.failure) or self.moved or self.relabelled


@dataclass(slots=True)
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Adds a value to the mean; None is an unknown value, which makes the mean NaN."""
        self.total += math.nan if value is None else value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


@dataclass(frozen=True, slots=True)
class Move:
    """A kind of change between two configurations: from one path and task to another path, another task or both."""

    path: str
    new_path: str
    task: str
    new_task: str


@dataclass(frozen=True, slots=True)
class Costs:
    """Mean dollars for 1,000 requests, with the recorded decisions (`before`) and with the other configuration
    (`after`).
    """

    before: float
    after: float
    estimated: tuple[str, ...]
    """The names of paths without recorded answers; their cost is estimated from lengths and prices."""


@dataclass
class ReplayDiff:
    """Counts how the decisions of another configuration differ from the recorded ones; all numbers are of requests.

    `changed` requests get another path (`moved`), another task (`relabelled`) or an error (`failing`).
    `newly_abstained` are requests for which only the other configuration's classifier finds no task,
    `no_longer_abstained` those for which only the recorded one found none. `without_text` requests were stored without
    their text. The counters are by name: of sketches, paths, reasons, errors, revisions of the configuration, and kinds
    of change.
    """

    examples_per_move: int
    """The number of requests of each kind of change that are kept as examples: those with the highest confidence."""
    decisions: int = 0
    changed: int = 0
    moved: int = 0
    relabelled: int = 0
    newly_abstained: int = 0
    no_longer_abstained: int = 0
    failing: int = 0
    without_text: int = 0
    redrawn: int = 0
    by_evidence: int = 0
    by_sketch: Counter[str] = field(default_factory=Counter)
    """The number of requests whose task may depend on a sketch (hashes of a collection's documents), by the sketch's
    name.
    """
    on_modified_paths: Counter[str] = field(default_factory=Counter)
    """The number of requests that stay on a path whose settings differ, by the path's name."""
    not_comparable: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    revisions: Counter[str] = field(default_factory=Counter)
    moves: Counter[Move] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self._examples: dict[Move, list[tuple[float, int, ReplayedDecision]]] = defaultdict(list)
        self._actual_cost: dict[str, _Mean] = defaultdict(_Mean)
        self._expected_cost: dict[str, _Mean] = defaultdict(_Mean)
        self._paths_before: Counter[str] = Counter()
        self._paths_after: Counter[str] = Counter()

    def add(self, replayed: ReplayedDecision) -> None:
        recorded = replayed.recorded
        self.decisions += 1
        self.revisions[recorded.revision] += 1
        self.without_text += not recorded.has_text
        self.redrawn += replayed.redrawn
        self.by_evidence += replayed.by_evidence
        self.by_sketch.update(recorded.sketches)
        if recorded.answered_by:
            self._actual_cost[recorded.answered_by].add(recorded.cost_usd)
        if replayed.not_comparable:
            self.not_comparable[replayed.not_comparable] += 1
            return
        if replayed.failure:
            self.failing += 1
            self.failures[replayed.failure] += 1
        self._count_change(replayed)
        self._count_cost(replayed)

    @property
    def compared(self) -> int:
        return self.decisions - self.not_comparable.total()

    @property
    def changed_fraction(self) -> float:
        """Returns the fraction (0 to 1) of the comparable decisions that changes; 0 if none is comparable."""
        return self.changed / self.compared if self.compared else 0.0

    def costs(self) -> Costs | None:
        """Returns the dollars of 1,000 requests with both configurations; None if a price is unknown.

        The dollars are computed from each path's mean cost of an answer.
        """
        answered = max(self._paths_after.total(), 1)
        means = {path: self._mean_cost(path) for path in {*self._paths_before, *self._paths_after}}
        before, after = (
            1000 / answered * sum(count * means[path] for path, count in paths.items())
            for paths in (self._paths_before, self._paths_after)
        )
        if math.isnan(before) or math.isnan(after):
            return None
        return Costs(before, after, tuple(sorted(path for path in means if path not in self._actual_cost)))

    def examples(self, limit: int) -> list[ReplayedDecision]:
        """Returns at most `limit` examples: one of each kind of change, then a second one of each, and so on.

        Frequent kinds of change come first, and of each kind the requests with the highest confidence.
        """
        ranked = [
            [replayed for _, _, replayed in sorted(self._examples[move], key=lambda entry: entry[:2], reverse=True)]
            for move, _ in self.moves.most_common()
        ]
        round_robin = (r for each in itertools.zip_longest(*ranked) for r in each if r is not None)
        return list(itertools.islice(round_robin, limit))

    def _count_change(self, replayed: ReplayedDecision) -> None:
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
        self._keep_example(move, replayed)

    def _keep_example(self, move: Move, replayed: ReplayedDecision) -> None:
        if not self.examples_per_move:
            return
        confidence = replayed.decision.confidence if replayed.decision else 1.0
        entry = (confidence, -next(self._order), _shortened(replayed))
        heap = self._examples[move]
        if len(heap) < self.examples_per_move:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def _count_cost(self, replayed: ReplayedDecision) -> None:
        recorded, decision = replayed.recorded, replayed.decision
        if decision is None:
            return
        self._paths_before[recorded.path] += 1
        self._paths_after[decision.path.name] += 1
        self._expected_cost[recorded.last_path].add(recorded.expected_cost_usd)
        self._expected_cost[decision.path.name].add(decision.expected_cost_usd)
        if not replayed.moved and recorded.fingerprint not in ("", decision.path.fingerprint):
            self.on_modified_paths[recorded.path] += 1

    def _mean_cost(self, path: str) -> float:
        return self._actual_cost[path].value if path in self._actual_cost else self._expected_cost[path].value


def _shortened(replayed: ReplayedDecision) -> ReplayedDecision:
    """Replaces a decision's messages, which may be long, by the beginning of the query."""
    request = replayed.recorded.request
    query = (Message("user", request.query[:MAX_QUERY_CHARACTERS]),)
    return replace(replayed, recorded=replace(replayed.recorded, request=replace(request, messages=query)))
