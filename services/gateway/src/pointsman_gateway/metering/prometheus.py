"""All metrics of the gateway; their labels come from the configuration only."""

from collections.abc import Callable, Collection, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge

from pointsman_gateway.domain import PICODOLLARS, Decision, Path, Receipt
from pointsman_gateway.domain.outcome import OK
from pointsman_gateway.fast_metrics import Count, FastCollector, Histogram, Series, counter, histogram, nothing_waits
from pointsman_gateway.metering.cost_metrics import PathTotals

OTHER = "other"

# Buckets in seconds; every threshold that an objective is likely to use lies on an edge.
END_TO_END = (.005, .01, .025, .05, .1, .2, .3, .5, .75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300)  # fmt: skip
FIRST_TOKEN = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)  # fmt: skip
PER_TOKEN = (.002, .005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .5, 1, 2.5)  # fmt: skip
DECISION = (.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1)  # fmt: skip
CONFIDENCE = tuple(step / 20 for step in range(1, 21))

BY_PATH = ["path", "kind", "task"]

TOKENS = {"fresh": "prompt", "cached": "cached", "completion": "completion"}
"""What tokens are called as labels, by the names of their numbers."""


class _Sending:
    """Counts what makes a `Sent`; kinds share it that the path has been of: a change of the configuration may make it
    another."""

    def __init__(self) -> None:
        self.answered, self.tokens, self.paid, self.lost = Count(), Count(), Count(), Count()

    def told(self) -> PathTotals:
        return PathTotals(*(int(count.value) for count in (self.answered, self.tokens, self.paid, self.lost)))


def has_pace(receipt: Receipt) -> bool:
    """Whether it can be said how long each token took after the first."""
    return receipt.usage.completion_tokens > 1 and "generation" in receipt.seconds


def usd(component: str) -> str:
    """The name of the number that says what it cost."""
    return component + "_usd"


class GatewayMetrics:
    """The gateway's own. Receipts are counted in the `cells` that it names."""

    def __init__(self, registry: CollectorRegistry, settle: Callable[[], None] = nothing_waits) -> None:
        """`settle` counts what waits; it is called before anybody reads."""
        self._settle = settle
        self._paths: frozenset[str] = frozenset()
        self._tasks: frozenset[str] = frozenset()
        self._requests = counter(
            "pointsman_requests", "Requests by how they ended, and by whose fault.", [*BY_PATH, "outcome", "fault"]
        )
        self._seconds = histogram("pointsman_request_duration_seconds", "Arrival to end.", BY_PATH, END_TO_END)
        self._first_token = histogram(
            "pointsman_time_to_first_token_seconds", "Arrival to first token.", BY_PATH, FIRST_TOKEN
        )
        self._per_token = histogram(
            "pointsman_time_per_output_token_seconds", "Of each token of an answer after the first.", BY_PATH, PER_TOKEN
        )
        self._phases = histogram(
            "pointsman_phase_duration_seconds", "Time in each phase.", ["path", "phase"], END_TO_END
        )
        decisions = histogram("pointsman_decision_duration_seconds", "Classification and routing.", [], DECISION)
        self._decisions = decisions.cell()
        self._confidence = histogram(
            "pointsman_classification_confidence", "The classifier's probability.", ["task"], CONFIDENCE
        )
        self._reasons = counter("pointsman_decisions", "Decisions by reason.", ["path", "task", "reason"])
        self._tokens = counter("pointsman_tokens", "Tokens.", [*BY_PATH, "type"])
        self._cost = counter("pointsman_cost_usd", "Dollars.", [*BY_PATH, "component"], per=PICODOLLARS)
        self._routed = counter("pointsman_route_requests", "Requests that wanted the decision alone.", BY_PATH)
        self._turned_away = counter(
            "pointsman_rejected", "Requests that came to no decision: refused, or given up.", ["code", "fault"]
        )
        self._sendings: dict[tuple[str, str], _Sending] = {}
        """By task and path."""
        tallies = FastCollector(
            [self._requests, self._reasons, self._tokens, self._cost, self._routed, self._turned_away],
            [self._seconds, self._first_token, self._per_token, self._phases, decisions, self._confidence],
            settle,
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
        self.waiting = Gauge("pointsman_queue_depth", "Requests that wait for a place.", registry=registry)

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

    def cells_of_decision(self, decision: Decision) -> Iterator[tuple[str, Series]]:
        """What a decision is counted in, by the name of the number."""
        task = self._task(decision.task)
        yield "requests", self._reasons.cell(self._path(decision.path), task, decision.reason.partition(":")[0])
        yield "deciding", self._decisions
        if decision.probabilities:
            yield "confidence", self._confidence.cell(task)

    def fell_back(self, source: Path, target: Path) -> None:
        self._fallbacks.labels(self._path(source), self._path(target)).inc()

    def judged(self, decision: Decision, validator: str, ruling: str) -> None:
        """`validator` is the name of its sort; `ruling` is "accepted", "refused" or "unjudged"."""
        self._validations.labels(self._path(decision.path), self._task(decision.task), validator, ruling).inc()

    def escalated(self, source: Path, decision: Decision, validator: str) -> None:
        target = self._path(decision.path)
        self._escalations.labels(self._task(decision.task), self._path(source), target, validator).inc()

    def routed(self, receipt: Receipt) -> None:
        """Of a request that wanted the decision alone."""
        decision, path = receipt.decision, receipt.decision.path
        self._routed.cell(self._path(path), path.kind.value, self._task(decision.task)).value += 1
        numbers = {"requests": 1, "deciding": receipt.seconds["classification"], "confidence": decision.confidence}
        for name, cell in self.cells_of_decision(decision):
            cell.add([numbers[name]])

    def turned_away(self, outcome: str, fault: str) -> None:
        """A request has come to no decision."""
        self._turned_away.cell(outcome, fault).value += 1

    def sent(self) -> Iterator[tuple[str, str, PathTotals]]:
        """By task and path."""
        self._settle()
        for (task, path), sending in self._sendings.items():
            yield task, path, sending.told()

    def cells(self, receipt: Receipt) -> Iterator[tuple[str, Series]]:
        """What a receipt is counted in, by the name of the number."""
        path, task = receipt.decision.path, receipt.decision.task
        labels = (self._path(path), path.kind.value, self._task(task))
        self._bear(labels)
        yield "requests", self._requests.cell(*labels, receipt.outcome, receipt.fault)
        for phase in receipt.seconds:
            yield phase, self._spread(labels, phase)
        for component in receipt.picodollars:
            yield usd(component), self._cost.cell(*labels, component)
        if receipt.cached:  # no engine has read or made them
            replayed = self._tokens.cell(*labels, "replayed")
            yield from (("read", replayed), ("completion", replayed))
        else:
            for number, sort in TOKENS.items():
                yield number, self._tokens.cell(*labels, sort)
            if receipt.outcome == OK and has_pace(receipt):
                yield "per_token", self._per_token.cell(*labels)
        yield from self._cells_of_sending(receipt)

    def _bear(self, labels: tuple[str, str, str]) -> None:
        """What is shown of every path from its first request on."""
        for timed in (self._seconds, self._first_token, self._per_token):
            timed.cell(*labels)
        for sort in TOKENS.values():
            self._tokens.cell(*labels, sort)

    def _spread(self, labels: tuple[str, str, str], phase: str) -> Histogram:
        if phase == "total":
            return self._seconds.cell(*labels)
        return self._first_token.cell(*labels) if phase == "first_token" else self._phases.cell(labels[0], phase)

    def _cells_of_sending(self, receipt: Receipt) -> Iterator[tuple[str, Series]]:
        of = (self._task(receipt.decision.task), self._path(receipt.decision.path))
        sending = self._sendings.setdefault(of, _Sending())
        if receipt.outcome == OK:
            yield from (("requests", sending.answered), ("asked", sending.tokens))
        for component in receipt.picodollars:
            if component != "training":
                yield usd(component), sending.paid if receipt.outcome == OK else sending.lost

    def _path(self, path: Path) -> str:
        return path.name if path.name in self._paths else OTHER

    def _task(self, task: str) -> str:
        return task if task in self._tasks else OTHER
