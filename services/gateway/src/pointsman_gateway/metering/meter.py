"""The stage: a meter runs along with each request and writes its receipt, however the request ends."""

from time import perf_counter

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.domain import Chunks, Decision, Path, Receipt, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import OK, ROUTED, Fault
from pointsman_gateway.faults import fault_of, outcome_of
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.attempts import PathAttempt, Work, sum_attempts
from pointsman_gateway.metering.canary import CanaryOutcomes
from pointsman_gateway.metering.pricing import ExpectedCost, Parts, Pricing, tokens_asked

NOBODYS = Fault.NONE.value
NOTHING_TRIED = PathAttempt(Path("", ""), 0.0)

_OF_TOKENS = ("prompt", "cached", "completion")
_NO_HABIT = frozenset((*_OF_TOKENS, "training"))
"""Components of what an answer costs that its path's habits leave out: tokens are in them by their number."""


class Metering:
    """Starts meters."""

    def __init__(
        self, pricing: Pricing, expected_cost: ExpectedCost, counting: MetricsAggregator, trials: CanaryOutcomes
    ) -> None:
        self.pricing = pricing
        self.expected_cost = expected_cost
        self.counting = counting
        self.metrics = counting.metrics
        self.gen_ai = counting.gen_ai
        self.trials = trials

    def apart(self, counting: MetricsAggregator, trials: CanaryOutcomes) -> "Metering":
        """The same prices, counted elsewhere."""
        return Metering(self.pricing, self.expected_cost, counting, trials)

    def start(self, request: Request) -> "Meter":
        """The time runs from the request's arrival; where that is not told, from now on."""
        return Meter(self, request)


class Meter:
    """Times and counts one request: all that was tried for it."""

    __slots__ = (
        "_admitted",
        "_answers",
        "_arrived",
        "_decided",
        "_decision",
        "_first",
        "_first_token",
        "_metering",
        "_refused",
        "_request",
        "_tries",
    )

    def __init__(self, metering: Metering, request: Request) -> None:
        self._metering = metering
        self._request = request
        self._arrived = request.arrived_at or perf_counter()
        self._admitted: float | None = None
        self._first: Decision | None = None
        """What was decided before anything failed."""
        self._decision: Decision | None = None
        self._decided = 0.0
        self._first_token: float | None = None
        self._tries: list[PathAttempt] = []
        self._answers: PathAttempt | None = None
        """The one whose answer the caller gets."""
        self._refused: PathAttempt | None = None
        """The one from which another was escalated to."""

    def admitted(self) -> None:
        """It has a place in the house, and a hold on its caller's limits."""
        self._admitted = perf_counter() - self._arrived

    def decided(self, decision: Decision) -> None:
        self._decision = self._first = decision
        self._decided = perf_counter() - self._arrived

    def tries(self, path: Path) -> PathAttempt:
        """What follows is the work of `path`; it is told itself how its prompt and its answer come along."""
        now = perf_counter()
        if self._answers is not None and self._answers.ended is None:
            self._answers.ended = now
        self._answers = tried = PathAttempt(path, now)
        self._tries.append(tried)
        return tried

    def fell_back(self, source: Path, decision: Decision) -> None:
        self._decision = decision
        self._metering.metrics.fell_back(source, decision.path)

    def failed(self, code: str, waited: float) -> None:
        """What is being tried has failed; `waited` seconds were lost with an adapter that was not loaded."""
        self._now.failure = code
        self._now.waited += waited

    def judged(self, decision: Decision, validator: str, ruling: str) -> None:
        self._now.refused |= ruling == "refused"
        self._metering.metrics.judged(decision, validator, ruling)

    def escalated(self, source: Path, decision: Decision, validator: str) -> None:
        """The answer of `source` is refused by `validator`; the decision says where to go instead."""
        self._now.ended = perf_counter()
        self._decision, self._refused = decision, self._answers
        self._metering.metrics.escalated(source, decision, validator)

    def kept(self, source: Path, decision: Decision) -> None:
        """`source` could not answer; the answer that was refused is sent after all."""
        self._now.ended = perf_counter()
        self._answers, self._refused = self._refused, None
        self.fell_back(source, decision)

    def stayed(self, decision: Decision) -> None:
        """The answer that was refused is sent; nothing else was tried, as the decision says."""
        self._decision = decision

    def held(self) -> None:
        """The answer was kept back from its first piece until now."""
        self._now.held = perf_counter() - (self._now.first_piece or perf_counter())

    def used(self, usage: Usage) -> None:
        assert self._answers is not None
        self._answers.usage = usage

    def handed_on(self, chunks: Chunks) -> bool:
        """The caller gets the first parts of the answer. Whether there was a token among them; then the rest may go on
        without word."""
        for chunk in chunks:
            if chunk.content or chunk.extra:
                self._first_token = perf_counter() - self._arrived
                return True
        return False

    @property
    def elapsed(self) -> float:
        return perf_counter() - self._arrived

    @property
    def overhead(self) -> float:
        """Seconds of the gateway's own: deciding, and making prompts without looking anything up."""
        overhead = self._decided
        for tried in self._tries:
            overhead += tried.overhead()
        return overhead

    @property
    def _now(self) -> PathAttempt:
        assert self._answers is not None  # tries() comes first
        return self._answers

    def finish(self, outcome: str, error: PointsmanError | None = None) -> Receipt | UndecidedReceipt:
        """The receipt, counted. `error` is what the caller is told, if any."""
        fault = NOBODYS
        if outcome != OK:
            fault, outcome = fault_of(outcome, error), outcome_of(outcome)
        decision, first = self._decision, self._first
        if decision is None or first is None:
            return self._turned_away(outcome, fault)
        metering, request, by_engine = self._metering, self._request, False
        answers, asked = self._answers or NOTHING_TRIED, tokens_asked(request)
        work: list[Work] = []
        for tried in self._tries:
            done = usage, parts, seconds = tried.work(metering.pricing)
            work.append(done)
            if tried.path.resolved_adapter is not None:
                self._tell(tried, outcome)
            if tried.usage is not None and not tried.cached:
                by_engine = True
                if outcome == OK:
                    metering.expected_cost.habits.learn(tried.path, asked, usage, _beside(parts))
        if len(work) != 1:
            by_engine = False
            usage, parts, seconds = sum_attempts(work)
            self._tell_tokens()
        receipt = Receipt(
            decision,
            usage,
            parts if decision.vector is None else self._with_embedding(parts),
            self._completed(seconds),
            outcome,
            answers.prompt.passages,
            answers.model,
            self._refused.path.name if self._refused is not None else "",
            answers.cached,
            fault,
            request_id.get(),
        )
        metering.counting.ended((receipt, first, request.operation, request.model, asked, by_engine))
        return receipt

    def routed(self) -> Receipt:
        """The receipt of a request that wanted the decision alone, counted; it costs nothing."""
        assert self._decision is not None
        _, _, seconds = sum_attempts([tried.work(self._metering.pricing) for tried in self._tries])
        receipt = Receipt(self._decision, Usage(), {}, self._completed(seconds), ROUTED, request_id=request_id.get())
        self._metering.metrics.routed(receipt)
        return receipt

    def _turned_away(self, outcome: str, fault: str) -> UndecidedReceipt:
        seconds = {"total": self.elapsed}
        seconds["admission"] = seconds["total"] if self._admitted is None else self._admitted
        self._metering.metrics.turned_away(outcome, fault)
        if self._request.operation in ("chat", "completion"):
            self._metering.gen_ai.refused(self._request, outcome, seconds["total"])
        counted = self._admitted is not None
        request = self._request
        return UndecidedReceipt(
            request_id.get(),
            request.operation,
            outcome,
            fault,
            seconds,
            caller=request.caller,
            counts_as_request=counted,
        )

    def _tell(self, tried: PathAttempt, outcome: str) -> None:
        """What came of a try with an adapter whose alias has a canary; the cache's answers say nothing of a version."""
        aim = tried.path.resolved_adapter
        if aim is None or not aim.has_canary or tried.cached or tried.sent is None:
            return
        came_of_it = tried.failure or ("ok" if tried.ended is not None else outcome)
        seconds = (tried.ended or perf_counter()) - tried.sent - tried.waited
        self._metering.trials.ended(tried.path, aim, came_of_it, tried.refused, seconds)

    def _completed(self, seconds: dict[str, float]) -> dict[str, float]:
        """The same, of the tries, and those before, over and beside them."""
        admitted, tries = self._admitted or 0.0, self._tries
        # What it was to cost is held after the decision, which may wait for Redis as all of admission may.
        held = tries[0].begun - self._arrived - self._decided if tries else 0.0
        seconds["admission"] = admitted + held
        seconds["classification"] = self._decided - admitted
        total = seconds["total"] = perf_counter() - self._arrived
        if self._first_token is not None:
            seconds["first_token"] = self._first_token
            seconds["generation"] = total - self._first_token
        return seconds

    def _tell_tokens(self) -> None:
        """Of each answer, where the receipt has those of several."""
        for tried in self._tries:
            if tried.usage is not None and not tried.cached:
                self._metering.gen_ai.used(self._request.operation, tried.model, tried.usage)

    def _with_embedding(self, parts: Parts) -> Parts:
        """The question was embedded to tell its task."""
        embedding = self._metering.pricing.embeddings(1)
        return {**parts, "embedding": parts.get("embedding", 0) + embedding} if embedding else parts


def _beside(parts: Parts) -> int:
    """Picodollars of an answer that its path's habits do not have as tokens."""
    if len(parts) == len(_OF_TOKENS):
        return 0
    return sum([amount for component, amount in parts.items() if component not in _NO_HABIT])
