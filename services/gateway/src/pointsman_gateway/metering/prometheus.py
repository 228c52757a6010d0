"""All metrics of the gateway; their labels come from the configuration only."""

from collections.abc import Collection
from dataclasses import dataclass, field

from pointsman_servicekit.correlation import recorded_trace
from prometheus_client import CollectorRegistry, Counter, Gauge

from pointsman_gateway.domain import Decision, Path, Receipt, Usage
from pointsman_gateway.metering.tallies import Count, Family, Histogram, Tallies, counter, histogram

OTHER = "other"

# Buckets in seconds; every threshold that an objective is likely to use lies on an edge.
END_TO_END = (.005, .01, .025, .05, .1, .2, .3, .5, .75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300)  # fmt: skip
FIRST_TOKEN = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)  # fmt: skip
DECISION = (.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1)  # fmt: skip
CONFIDENCE = tuple(step / 20 for step in range(1, 21))

BY_PATH = ["path", "kind", "task"]


@dataclass(slots=True)
class _Series:
    """What is counted of the requests of one path, kind and task."""

    seconds: Histogram
    first_token: Histogram
    prompt: Count
    cached: Count
    completion: Count
    outcomes: dict[tuple[str, str], Count] = field(default_factory=dict)
    dollars: dict[str, Count] = field(default_factory=dict)
    phases: dict[str, Histogram] = field(default_factory=dict)


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
        self._phases = histogram("pointsman_phase_seconds", "Time in each phase.", ["path", "phase"], END_TO_END)
        decisions = histogram("pointsman_decision_seconds", "Classification and routing.", [], DECISION)
        self._decisions = decisions.cell()
        self._confidence = histogram("pointsman_confidence", "The classifier's probability.", ["task"], CONFIDENCE)
        self._reasons = counter("pointsman_decisions", "Decisions by reason.", ["path", "task", "reason"])
        self._tokens = counter("pointsman_tokens", "Tokens.", [*BY_PATH, "type"])
        self._cost = counter("pointsman_cost_usd", "Dollars.", [*BY_PATH, "component"])
        self._series: dict[tuple[str, str, str], _Series] = {}
        tallies = Tallies(
            [self._requests, self._reasons, self._tokens, self._cost],
            [self._seconds, self._first_token, self._phases, decisions, self._confidence],
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
        self.refused = Counter(
            "pointsman_refused", "Requests refused before a decision.", ["code", "fault"], registry=registry
        )

    def know(self, paths: Collection[str], tasks: Collection[str]) -> None:
        """The label values allowed from now on; any other is counted as "other"."""
        self._paths, self._tasks = frozenset(paths), frozenset(tasks)

    def reloaded(self, outcome: str, generation: str) -> None:
        """`outcome` is "swapped" or "refused"; `generation` is the one that serves now."""
        self._reloads.labels(outcome).inc()
        self.serving(generation)

    def serving(self, generation: str) -> None:
        self._generation.clear()
        self._generation.labels(generation).set(1)

    def decided(self, decision: Decision, seconds: float) -> None:
        task = self._task(decision.task)
        self._decisions.observe(seconds)
        self._reasons.cell(self._path(decision.path), task, decision.reason.partition(":")[0]).value += 1
        if decision.probabilities:
            self._confidence.cell(task).observe(decision.confidence)

    def fell_back(self, source: Path, target: Path) -> None:
        self._fallbacks.labels(self._path(source), self._path(target)).inc()

    def judged(self, decision: Decision, validator: str, ruling: str) -> None:
        """`validator` is the name of its sort; `ruling` is "accepted", "refused" or "unjudged"."""
        self._validations.labels(self._path(decision.path), self._task(decision.task), validator, ruling).inc()

    def escalated(self, source: Path, decision: Decision, validator: str) -> None:
        target = self._path(decision.path)
        self._escalations.labels(self._task(decision.task), self._path(source), target, validator).inc()

    def ended(self, receipt: Receipt, fault: str) -> None:
        path = self._path(receipt.decision.path)
        labels = (path, receipt.decision.path.kind.value, self._task(receipt.decision.task))
        series = self._series.get(labels) or self._begin(labels)
        outcome = series.outcomes.get((receipt.outcome, fault))
        if outcome is None:
            outcome = series.outcomes[receipt.outcome, fault] = self._requests.cell(*labels, receipt.outcome, fault)
        outcome.value += 1
        trace = recorded_trace()
        for phase, seconds in receipt.seconds.items():
            if phase == "total":
                series.seconds.observe(seconds, trace)
            elif phase == "first_token":
                series.first_token.observe(seconds, trace)
            else:
                spread = series.phases.get(phase)
                if spread is None:
                    spread = series.phases[phase] = self._phases.cell(path, phase)
                spread.observe(seconds, trace)
        usage = receipt.usage
        if receipt.cached:  # no engine has read or made them
            self._tokens.cell(*labels, "replayed").value += usage.prompt_tokens + usage.completion_tokens
            usage = Usage()
        series.prompt.value += usage.prompt_tokens - usage.cached_tokens
        series.cached.value += usage.cached_tokens
        series.completion.value += usage.completion_tokens
        for component, dollars in receipt.cost_parts_usd.items():
            _of(series.dollars, self._cost, labels, component).value += dollars

    def _begin(self, labels: tuple[str, str, str]) -> _Series:
        series = _Series(
            seconds=self._seconds.cell(*labels),
            first_token=self._first_token.cell(*labels),
            prompt=self._tokens.cell(*labels, "prompt"),
            cached=self._tokens.cell(*labels, "cached"),
            completion=self._tokens.cell(*labels, "completion"),
        )
        self._series[labels] = series
        return series

    def _path(self, path: Path) -> str:
        return path.name if path.name in self._paths else OTHER

    def _task(self, task: str) -> str:
        return task if task in self._tasks else OTHER


def _of(known: dict[str, Count], family: Family[Count], labels: tuple[str, str, str], last: str) -> Count:
    count = known.get(last)
    if count is None:
        count = known[last] = family.cell(*labels, last)
    return count
