"""All metrics of the gateway; their labels come from the configuration only."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pointsman_servicekit.correlation import recorded_trace
from prometheus_client import CollectorRegistry, Counter, Gauge

from pointsman_gateway.domain import PICO, Decision, Path, Receipt
from pointsman_gateway.domain.outcome import OK
from pointsman_gateway.metering.counterfactual import Sent
from pointsman_gateway.metering.tallies import Count, Histogram, Tallies, counter, histogram

OTHER = "other"

# Buckets in seconds; every threshold that an objective is likely to use lies on an edge.
END_TO_END = (.005, .01, .025, .05, .1, .2, .3, .5, .75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300)  # fmt: skip
FIRST_TOKEN = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)  # fmt: skip
PER_TOKEN = (.002, .005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .5, 1, 2.5)  # fmt: skip
DECISION = (.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1)  # fmt: skip
CONFIDENCE = tuple(step / 20 for step in range(1, 21))

BY_PATH = ["path", "kind", "task"]

MOST_REMEMBERED = 4096

Key = TypeVar("Key")
Cell = TypeVar("Cell")


@dataclass(slots=True)
class _Series:
    """What is counted of the requests of one path, kind and task."""

    labels: tuple[str, str, str]
    per_token: Histogram
    prompt: Count
    cached: Count
    completion: Count
    sent: Sent
    """Shared by all kinds that the path has been of: a change of the configuration may make it another."""
    outcomes: dict[tuple[str, str], Count] = field(default_factory=dict)
    dollars: dict[str, Count] = field(default_factory=dict)
    """In picodollars."""
    phases: dict[str, Histogram] = field(default_factory=dict)
    """With the time to the first token and the whole time among them."""


class Metrics:
    """Counts receipts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._paths: frozenset[str] = frozenset()
        self._tasks: frozenset[str] = frozenset()
        self._requests = counter(
            "pointsman_requests", "Requests by how they ended, and by whose fault.", [*BY_PATH, "outcome", "fault"]
        )
        self._seconds = histogram("pointsman_request_seconds", "Arrival to end.", BY_PATH, END_TO_END)
        self._first_token = histogram(
            "pointsman_time_to_first_token_seconds", "Arrival to first token.", BY_PATH, FIRST_TOKEN
        )
        self._per_token = histogram(
            "pointsman_time_per_output_token_seconds", "Of each token of an answer after the first.", BY_PATH, PER_TOKEN
        )
        self._phases = histogram("pointsman_phase_seconds", "Time in each phase.", ["path", "phase"], END_TO_END)
        decisions = histogram("pointsman_decision_seconds", "Classification and routing.", [], DECISION)
        self._decisions = decisions.cell()
        self._confidence = histogram("pointsman_confidence", "The classifier's probability.", ["task"], CONFIDENCE)
        self._reasons = counter("pointsman_decisions", "Decisions by reason.", ["path", "task", "reason"])
        self._tokens = counter("pointsman_tokens", "Tokens.", [*BY_PATH, "type"])
        self._cost = counter("pointsman_cost_usd", "Dollars.", [*BY_PATH, "component"], per=PICO)
        self._routed = counter("pointsman_routed", "Requests that wanted the decision alone.", BY_PATH)
        self._turned_away = counter(
            "pointsman_refused", "Requests that came to no decision: refused, or given up.", ["code", "fault"]
        )
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._sent: dict[tuple[str, str], Sent] = {}
        """By task and path."""
        self._by_receipt: dict[tuple[str, str, str], _Series] = {}
        """The same by path, fingerprint and task, as receipts name them: their labels are not made each time."""
        self._by_decision: dict[tuple[str, str, str], Count] = {}
        """Reasons by path, task and reason, for the same purpose."""
        tallies = Tallies(
            [self._requests, self._reasons, self._tokens, self._cost, self._routed, self._turned_away],
            [self._seconds, self._first_token, self._per_token, self._phases, decisions, self._confidence],
        )
        registry.register(tallies)
        self._fallbacks = Counter(
            "pointsman_fallbacks", "Answers by another path.", ["source", "target"], registry=registry
        )
        self._validations = Counter(
            "pointsman_validations",
            "What validators said of answers.",
            ["path", "task", "validator", "ruling"],
            registry=registry,
        )
        self._escalations = Counter(
            "pointsman_escalations",
            "Answers that were not accepted, by where the request went instead.",
            ["task", "source", "target", "validator"],
            registry=registry,
        )
        self._reloads = Counter(
            "pointsman_config_reloads",
            "Changes of the configuration folder, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("swapped", "refused"):  # a series that is born at 1 hides its first event
            self._reloads.labels(outcome)
        self._generation = Gauge(
            "pointsman_config_generation", "1 for the configuration that serves.", ["generation"], registry=registry
        )
        self.in_flight = Gauge("pointsman_in_flight", "Requests being answered.", registry=registry)
        self.waiting = Gauge("pointsman_waiting", "Requests that wait for a place.", registry=registry)

    def know(self, paths: Collection[str], tasks: Collection[str]) -> None:
        """The label values allowed from now on; any other is counted as "other"."""
        self._paths, self._tasks = frozenset(paths), frozenset(tasks)
        self._by_receipt, self._by_decision = {}, {}

    def reloaded(self, outcome: str, generation: str) -> None:
        """`outcome` is "swapped" or "refused"; `generation` is the one that serves now."""
        self._reloads.labels(outcome).inc()
        self.serving(generation)

    def serving(self, generation: str) -> None:
        self._generation.clear()
        self._generation.labels(generation).set(1)

    def decided(self, decision: Decision, seconds: float) -> None:
        self._decisions.observe(seconds)
        named = (decision.path.name, decision.task, decision.reason)
        count = self._by_decision.get(named)
        if count is None:
            reason = decision.reason.partition(":")[0]
            count = self._reasons.cell(self._path(decision.path), self._task(decision.task), reason)
            _remember(self._by_decision, named, count)
        count.value += 1
        if decision.probabilities:
            self._confidence.cell(self._task(decision.task)).observe(decision.confidence)

    def fell_back(self, source: Path, target: Path) -> None:
        self._fallbacks.labels(self._path(source), self._path(target)).inc()

    def judged(self, decision: Decision, validator: str, ruling: str) -> None:
        """`validator` is the name of its sort; `ruling` is "accepted", "refused" or "unjudged"."""
        self._validations.labels(self._path(decision.path), self._task(decision.task), validator, ruling).inc()

    def escalated(self, source: Path, decision: Decision, validator: str) -> None:
        target = self._path(decision.path)
        self._escalations.labels(self._task(decision.task), self._path(source), target, validator).inc()

    def routed(self, receipt: Receipt) -> None:
        path = receipt.decision.path
        self._routed.cell(self._path(path), path.kind.value, self._task(receipt.decision.task)).value += 1

    def turned_away(self, outcome: str, fault: str) -> None:
        """A request has come to no decision."""
        self._turned_away.cell(outcome, fault).value += 1

    def sent(self) -> Iterator[tuple[str, str, Sent]]:
        """By task and path."""
        for (task, path), sent in self._sent.items():
            yield task, path, sent

    def ended(self, receipt: Receipt, asked: int) -> None:
        """`asked`: the tokens that the request had of its own."""
        series = self._series_of(receipt)
        end = receipt.outcome, receipt.fault
        outcome = series.outcomes.get(end) or self._count(series, end)
        outcome.value += 1
        trace = recorded_trace()
        for phase, seconds in receipt.seconds.items():
            spread = series.phases.get(phase) or self._spread(series, phase)
            spread.observe(seconds, trace)
        usage = receipt.usage
        if receipt.cached:  # no engine has read or made them
            self._tokens.cell(*series.labels, "replayed").value += usage.prompt_tokens + usage.completion_tokens
        else:
            series.prompt.value += usage.prompt_tokens - usage.cached_tokens
            series.cached.value += usage.cached_tokens
            series.completion.value += usage.completion_tokens
            if usage.completion_tokens > 1 and receipt.outcome == OK and "generation" in receipt.seconds:
                series.per_token.observe(receipt.seconds["generation"] / (usage.completion_tokens - 1), trace)
        for component, picodollars in receipt.picodollars.items():
            dollars = series.dollars.get(component) or self._spent(series, component)
            dollars.value += picodollars
        series.sent.add(receipt, asked)

    def _series_of(self, receipt: Receipt) -> _Series:
        path, task = receipt.decision.path, receipt.decision.task
        named = (path.name, path.fingerprint, task)
        series = self._by_receipt.get(named)
        if series is None:
            labels = (self._path(path), path.kind.value, self._task(task))
            series = self._series.get(labels) or self._begin(labels)
            _remember(self._by_receipt, named, series)
        return series

    def _count(self, series: _Series, end: tuple[str, str]) -> Count:
        count = series.outcomes[end] = self._requests.cell(*series.labels, *end)
        return count

    def _spread(self, series: _Series, phase: str) -> Histogram:
        path, _, _ = series.labels
        spread = series.phases[phase] = self._phases.cell(path, phase)
        return spread

    def _spent(self, series: _Series, component: str) -> Count:
        dollars = series.dollars[component] = self._cost.cell(*series.labels, component)
        return dollars

    def _begin(self, labels: tuple[str, str, str]) -> _Series:
        path, _, task = labels
        series = self._series[labels] = _Series(
            labels,
            per_token=self._per_token.cell(*labels),
            prompt=self._tokens.cell(*labels, "prompt"),
            cached=self._tokens.cell(*labels, "cached"),
            completion=self._tokens.cell(*labels, "completion"),
            sent=self._sent.setdefault((task, path), Sent()),
            phases={"total": self._seconds.cell(*labels), "first_token": self._first_token.cell(*labels)},
        )
        return series

    def _path(self, path: Path) -> str:
        return path.name if path.name in self._paths else OTHER

    def _task(self, task: str) -> str:
        return task if task in self._tasks else OTHER


def _remember(known: dict[Key, Cell], key: Key, cell: Cell) -> None:
    """Up to a cap: what callers name themselves is among the keys."""
    if len(known) >= MOST_REMEMBERED:
        known.clear()
    known[key] = cell
