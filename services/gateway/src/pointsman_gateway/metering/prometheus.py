"""The Prometheus metrics `pointsman_...` that count requests, tokens, seconds and dollars by path and task.

A path or task that is not in the present configuration is counted under the label "other", so that the number of series
is bounded.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from pointsman_gateway.domain import PICODOLLARS, UNPRICED, Decision, Path, Receipt, TokenDetails
from pointsman_gateway.domain.outcome import OK
from pointsman_gateway.domain.path import OTHER
from pointsman_gateway.domain.usage import TOKEN_KINDS
from pointsman_gateway.fast_metrics import Count, FastCollector, Histogram, Series, counter, histogram, nothing_pending
from pointsman_gateway.metering.cost_metrics import PathTotals

# Buckets in seconds. Every threshold that an objective is likely to use is a bucket's bound.
END_TO_END = (.005, .01, .025, .05, .1, .2, .3, .5, .75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300)  # fmt: skip
FIRST_TOKEN = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)  # fmt: skip
PER_TOKEN = (.002, .005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .5, 1, 2.5)  # fmt: skip
DECISION = (.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1)  # fmt: skip
CONFIDENCE = tuple(step / 20 for step in range(1, 21))

BY_PATH = ["path", "kind", "task"]

TOKEN_TYPES = {"uncached_tokens": "prompt", "cached_tokens": "cached", "completion_tokens": "completion"}
"""Values of the label `type` of `pointsman_tokens`, by the column of `COLUMNS` whose numbers they count."""


class _PathCounts:
    """Counts the totals of one task and path, whatever the path's kind, which a reload may change."""

    def __init__(self) -> None:
        self.answered, self.tokens, self.paid, self.lost = Count(), Count(), Count(), Count()

    def totals(self) -> PathTotals:
        return PathTotals(*(int(count.value) for count in (self.answered, self.tokens, self.paid, self.lost)))


def has_token_times(receipt: Receipt) -> bool:
    """Returns whether the mean time between two tokens of the answer can be computed: it has at least two tokens, and
    the receipt says how long their generation took.
    """
    return receipt.usage.completion_tokens > 1 and "generation" in receipt.seconds


def cost_column(component: str) -> str:
    return component + "_usd"


class GatewayMetrics:
    """The Prometheus metrics of requests, by path and task.

    A receipt's numbers are added later in batches by `MetricsAggregator`, to the series that `receipt_series` and
    `decision_series` yield. The other methods count at once.
    """

    def __init__(self, registry: CollectorRegistry, flush: Callable[[], None] = nothing_pending) -> None:
        """Takes `flush`, which adds pending receipts; it is called before each export."""
        self._flush = flush
        self._paths: frozenset[str] = frozenset()
        self._tasks: frozenset[str] = frozenset()
        self._requests = counter(
            "pointsman_requests", "Requests by outcome and by the party at fault.", [*BY_PATH, "outcome", "fault"]
        )
        self._seconds = histogram("pointsman_request_duration_seconds", "Arrival to end.", BY_PATH, END_TO_END)
        self._first_token = histogram(
            "pointsman_time_to_first_token_seconds", "Arrival to first token.", BY_PATH, FIRST_TOKEN
        )
        self._per_token = histogram(
            "pointsman_time_per_output_token_seconds", "Time per token after the first.", BY_PATH, PER_TOKEN
        )
        self._phases = histogram(
            "pointsman_phase_duration_seconds", "Time in each phase.", ["path", "phase"], END_TO_END
        )
        decisions = histogram("pointsman_decision_duration_seconds", "Classification and routing.", [], DECISION)
        self._decisions = decisions.series()
        self._confidence = histogram(
            "pointsman_classification_confidence", "The classifier's probability.", ["task"], CONFIDENCE
        )
        self._reasons = counter("pointsman_decisions", "Decisions by reason.", ["path", "task", "reason"])
        self._tokens = counter("pointsman_tokens", "Tokens.", [*BY_PATH, "type"])
        self._token_details = counter(
            "pointsman_token_details", "Tokens of special kinds, which `pointsman_tokens` includes.", [*BY_PATH, "type"]
        )
        self._estimated = counter(
            "pointsman_estimated_cost_usd",
            "Dollars of tokens that were estimated, by why no engine has counted them.",
            [*BY_PATH, "cause"],
            divisor=PICODOLLARS,
        )
        self._tools = counter(
            "pointsman_tool_requests", "Requests to tools that a provider ran and bills apart.", BY_PATH
        )
        self._cost = counter("pointsman_cost_usd", "Dollars.", [*BY_PATH, "component"], divisor=PICODOLLARS)
        self._routes = counter("pointsman_route_requests", "Requests for the decision only.", BY_PATH)
        self._rejected = counter(
            "pointsman_rejected", "Requests that were rejected or cancelled before a decision.", ["code", "fault"]
        )
        self._path_counts: dict[tuple[str, str], _PathCounts] = {}
        """By task and path, the counters."""
        collector = FastCollector(
            [
                *(self._requests, self._reasons, self._tokens, self._token_details, self._estimated, self._cost),
                *(self._tools, self._routes, self._rejected),
            ],
            [self._seconds, self._first_token, self._per_token, self._phases, decisions, self._confidence],
            flush,
        )
        registry.register(collector)
        self._fallbacks = Counter(
            "pointsman_fallbacks", "Failovers to another path.", ["source", "target"], registry=registry
        )
        self._validations = Counter(
            "pointsman_validations",
            "Rulings of validators on answers.",
            ["path", "task", "validator", "ruling"],
            registry=registry,
        )
        self._escalations = Counter(
            "pointsman_escalations",
            "Refused answers, by the path that the request was escalated to.",
            ["task", "source", "target", "validator"],
            registry=registry,
        )
        self._capped = Counter(
            "pointsman_usage_capped",
            "Answers for which an engine reported more tokens than are possible.",
            ["path"],
            registry=registry,
        )
        self._reloads = Counter(
            "pointsman_config_reloads",
            "Changes of the configuration folder, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("swapped", "refused"):  # a series that first appears with the value 1 hides its first event
            self._reloads.labels(outcome)
        self._generation = Gauge(
            "pointsman_config_revision", "1 for the current configuration.", ["revision"], registry=registry
        )
        self.in_flight = Gauge("pointsman_in_flight", "Requests in progress.", registry=registry)
        self.max_in_flight = Gauge(
            "pointsman_max_in_flight", "Requests that may be in progress at once.", registry=registry
        )
        self.queue_depth = Gauge("pointsman_queue_depth", "Requests that wait for a slot.", registry=registry)

    def set_label_values(self, paths: Collection[str], tasks: Collection[str]) -> None:
        """Sets the names of paths and tasks that may be label values; any other name counts as "other"."""
        self._paths, self._tasks = frozenset(paths), frozenset(tasks)

    def count_reload(self, outcome: str, revision: str) -> None:
        """Counts a reload of the configuration: `outcome` is "swapped" (the new one is in use) or "refused";
        `revision` identifies the configuration in use afterwards.
        """
        self._reloads.labels(outcome).inc()
        self.set_revision(revision)

    def set_revision(self, revision: str) -> None:
        self._generation.clear()
        self._generation.labels(revision).set(1)

    def decision_series(self, decision: Decision) -> Iterator[tuple[str, Series]]:
        """Yields the series that a request's first decision (before any fallback) updates, as pairs of a column's name
        and a series.

        `MetricsAggregator` later adds the receipt's number in this column to the series.
        """
        task = self._task(decision.task)
        yield "requests", self._reasons.series(self._path(decision.path), task, decision.reason.partition(":")[0])
        yield "decision_seconds", self._decisions
        if decision.probabilities:
            yield "confidence", self._confidence.series(task)

    def count_fallback(self, source: Path, target: Path) -> None:
        self._fallbacks.labels(self._path(source), self._path(target)).inc()

    def count_capped_usage(self, path: Path) -> None:
        self._capped.labels(self._path(path)).inc()

    def count_verdict(self, decision: Decision, validator: str, ruling: str) -> None:
        """Counts one result of the validator named `validator` for an answer on the decision's path: `ruling` is
        "accepted", "refused" or "unjudged".
        """
        self._validations.labels(self._path(decision.path), self._task(decision.task), validator, ruling).inc()

    def count_escalation(self, source: Path, decision: Decision, validator: str) -> None:
        target = self._path(decision.path)
        self._escalations.labels(self._task(decision.task), self._path(source), target, validator).inc()

    def count_route(self, receipt: Receipt) -> None:
        """Counts a request that asks for the decision only, without an answer."""
        decision, path = receipt.decision, receipt.decision.path
        self._routes.series(self._path(path), path.kind.value, self._task(decision.task)).value += 1
        numbers = {
            "requests": 1,
            "decision_seconds": receipt.seconds["classification"],
            "confidence": decision.confidence,
        }
        for column, series in self.decision_series(decision):
            series.add([numbers[column]])

    def count_token_details(self, receipt: Receipt, details: TokenDetails) -> None:
        """Counts the tokens of special kinds, and requests to a provider's tools.

        They are added at once and not in batches, since few receipts have `details`.
        """
        labels = self._labels(receipt)
        for kind in TOKEN_KINDS:
            if tokens := getattr(details, kind):
                self._token_details.series(*labels, kind).value += tokens
        if details.tool_requests:
            self._tools.series(*labels).value += details.tool_requests

    def count_estimates(self, receipt: Receipt, picodollars: Mapping[str, int]) -> None:
        """Counts the dollars of a receipt that come from estimated tokens.

        `picodollars` has their amount by cause: "cancelled", "interrupted" or "hedged" (see `ESTIMATE_CAUSES`).
        """
        labels = self._labels(receipt)
        for cause, amount in picodollars.items():
            self._estimated.series(*labels, cause).value += amount

    def count_rejected(self, outcome: str, fault: str) -> None:
        """Counts a request that ended before a path was chosen. `outcome` is "cancelled" or an error's code, and
        `fault` says who caused the end.
        """
        self._rejected.series(outcome, fault).value += 1

    def path_totals(self) -> Iterator[tuple[str, str, PathTotals]]:
        """Yields (task, path, totals) for every task and path, counted since the start of the process. Adds pending
        receipts first.
        """
        self._flush()
        for (task, path), counts in self._path_counts.items():
            yield task, path, counts.totals()

    def receipt_series(self, receipt: Receipt) -> Iterator[tuple[str, Series]]:
        """Yields the series that a receipt updates, as pairs of a column's name and a series.

        `MetricsAggregator` later adds the receipt's number in this column, such as its tokens, to the series.
        """
        labels = self._labels(receipt)
        self._create_series(labels)
        yield "requests", self._requests.series(*labels, receipt.outcome, receipt.fault)
        for phase in receipt.seconds:
            yield phase, self._histogram_of(labels, phase)
        for component in receipt.picodollars:
            if component == UNPRICED:
                continue  # a series would claim that the tokens cost nothing
            yield cost_column(component), self._cost.series(*labels, component)
        if receipt.cached:  # no engine has processed or generated these tokens
            replayed = self._tokens.series(*labels, "replayed")
            yield from (("prompt_tokens", replayed), ("completion_tokens", replayed))
        else:
            for column, token_type in TOKEN_TYPES.items():
                yield column, self._tokens.series(*labels, token_type)
            if receipt.outcome == OK and has_token_times(receipt):
                yield "per_token", self._per_token.series(*labels)
        yield from self._path_series(receipt)

    def _create_series(self, labels: tuple[str, str, str]) -> None:
        """Creates the series that every path exports from its first request on."""
        for timed in (self._seconds, self._first_token, self._per_token):
            timed.series(*labels)
        for token_type in TOKEN_TYPES.values():
            self._tokens.series(*labels, token_type)

    def _histogram_of(self, labels: tuple[str, str, str], phase: str) -> Histogram:
        if phase == "total":
            return self._seconds.series(*labels)
        return self._first_token.series(*labels) if phase == "first_token" else self._phases.series(labels[0], phase)

    def _path_series(self, receipt: Receipt) -> Iterator[tuple[str, Series]]:
        key = (self._task(receipt.decision.task), self._path(receipt.decision.path))
        counts = self._path_counts.setdefault(key, _PathCounts())
        if receipt.outcome == OK:
            yield from (("requests", counts.answered), ("own_tokens", counts.tokens))
        for component in receipt.picodollars:
            if component not in ("training", UNPRICED):
                yield cost_column(component), counts.paid if receipt.outcome == OK else counts.lost

    def _labels(self, receipt: Receipt) -> tuple[str, str, str]:
        """Returns the receipt's values of the labels `BY_PATH`."""
        path = receipt.decision.path
        return self._path(path), path.kind.value, self._task(receipt.decision.task)

    def _path(self, path: Path) -> str:
        return path.name if path.name in self._paths else OTHER

    def _task(self, task: str) -> str:
        return task if task in self._tasks else OTHER
