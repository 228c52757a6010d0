"""The stage: a meter runs along with each request and writes its receipt, however the request ends."""

import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.domain import Chunks, Decision, Path, Receipt, Request, Undecided, Usage
from pointsman_gateway.domain.outcome import OK, ROUTED, Fault
from pointsman_gateway.faults import fault_of, outcome_of
from pointsman_gateway.metering.attempts import Try
from pointsman_gateway.metering.expected_cost import ExpectedCost
from pointsman_gateway.metering.gen_ai import GenAi
from pointsman_gateway.metering.outcomes import Trials
from pointsman_gateway.metering.pricing import Parts, Pricing, tokens_of
from pointsman_gateway.metering.prometheus import Metrics

Amount = TypeVar("Amount", int, float)

NOBODYS = Fault.NONE.value
NOTHING_TRIED = Try(Path("", ""), 0.0)

_OF_TOKENS = ("prompt", "cached", "completion")
_NO_HABIT = frozenset((*_OF_TOKENS, "training"))
"""Components of what an answer costs that its path's habits leave out: tokens are in them by their number."""


class Metering:
    """Starts meters."""

    def __init__(
        self, pricing: Pricing, expected_cost: ExpectedCost, metrics: Metrics, trials: Trials, gen_ai: GenAi
    ) -> None:
        self.pricing = pricing
        self.expected_cost = expected_cost
        self.metrics = metrics
        self.trials = trials
        self.gen_ai = gen_ai

    def apart(self, metrics: Metrics, trials: Trials, gen_ai: GenAi) -> "Metering":
        """The same prices, counted elsewhere."""
        return Metering(self.pricing, self.expected_cost, metrics, trials, gen_ai)

    def start(self, request: Request) -> "Meter":
        """The time runs from the request's arrival; where that is not told, from now on."""
        return Meter(self, request)


class Meter:
    """Times and counts one request: all that was tried for it."""

    _admitted: float | None = None
    _decision: Decision | None = None
    _decided = 0.0
    _first_token: float | None = None
    _refused: Try | None = None
    """The one from which another was escalated to."""
    _answers: Try | None = None
    """The one whose answer the caller gets."""

    def __init__(self, metering: Metering, request: Request) -> None:
        self._metering = metering
        self._request = request
        self._arrived = request.arrived or time.perf_counter()
        self._tries: list[Try] = []

    def admitted(self) -> None:
        """It has a place in the house, and a hold on its caller's limits."""
        self._admitted = time.perf_counter() - self._arrived

    def decided(self, decision: Decision) -> None:
        self._decision, self._decided = decision, time.perf_counter() - self._arrived
        self._metering.metrics.decided(decision, self._decided - (self._admitted or 0.0))

    def tries(self, path: Path) -> Try:
        """What follows is the work of `path`; it is told itself how its prompt and its answer come along."""
        now = time.perf_counter()
        if self._answers is not None and self._answers.ended is None:
            self._answers.ended = now
        self._answers = tried = Try(path, now)
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
        self._now.ended = time.perf_counter()
        self._decision, self._refused = decision, self._answers
        self._metering.metrics.escalated(source, decision, validator)

    def kept(self, source: Path, decision: Decision) -> None:
        """`source` could not answer; the answer that was refused is sent after all."""
        self._now.ended = time.perf_counter()
        self._answers, self._refused = self._refused, None
        self.fell_back(source, decision)

    def held(self) -> None:
        """The answer was kept back from its first piece until now."""
        self._now.held = time.perf_counter() - (self._now.first_piece or time.perf_counter())

    def used(self, usage: Usage) -> None:
        now = self._now
        now.usage = usage
        if not now.cached:
            self._metering.gen_ai.used(self._request.operation, now.model, usage)

    def handed_on(self, chunks: Chunks) -> bool:
        """The caller gets the first parts of the answer. Whether there was a token among them; then the rest may go on
        without word."""
        for chunk in chunks:
            if chunk.content or chunk.extra:
                self._first_token = self.elapsed
                return True
        return False

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._arrived

    @property
    def overhead(self) -> float:
        """Seconds of the gateway's own: deciding, and making prompts without looking anything up."""
        return self._decided + sum([t.overhead for t in self._tries])

    @property
    def _now(self) -> Try:
        assert self._answers is not None  # tries() comes first
        return self._answers

    def finish(self, outcome: str, error: PointsmanError | None = None) -> Receipt | Undecided:
        """The receipt, counted. `error` is what the caller is told, if any."""
        fault = NOBODYS
        if outcome != OK:
            fault, outcome = fault_of(outcome, error), outcome_of(outcome)
        if self._decision is None:
            return self._turned_away(outcome, fault)
        metering, tries, answers = self._metering, self._tries, self._answers or NOTHING_TRIED
        by_try = [tried.parts(metering.pricing) for tried in tries]
        receipt = Receipt(
            self._decision,
            _summed(tries),
            self._with_embedding(by_try[0] if len(by_try) == 1 else _added(by_try)),
            self._seconds(),
            outcome,
            answers.prompt.passages,
            answers.model,
            self._refused.path.name if self._refused else "",
            answers.cached,
            fault,
            request_id.get(),
        )
        asked = tokens_of(self._request.messages)
        metering.metrics.ended(receipt, asked)
        metering.gen_ai.answered(self._request, receipt)
        for tried, parts in zip(tries, by_try, strict=True):
            if tried.path.aim is not None:
                self._tell(tried, outcome)
            if tried.usage and outcome == OK and not tried.cached:
                self._learn(tried, parts, asked)
        return receipt

    def routed(self) -> Receipt:
        """The receipt of a request that wanted the decision alone, counted; it costs nothing."""
        assert self._decision is not None
        receipt = Receipt(self._decision, Usage(), {}, self._seconds(), ROUTED, request_id=request_id.get())
        self._metering.metrics.routed(receipt)
        return receipt

    def _turned_away(self, outcome: str, fault: str) -> Undecided:
        seconds = {"total": self.elapsed}
        seconds["admission"] = seconds["total"] if self._admitted is None else self._admitted
        self._metering.metrics.turned_away(outcome, fault)
        if self._request.operation in ("chat", "completion"):
            self._metering.gen_ai.refused(self._request, outcome, seconds["total"])
        counted = self._admitted is not None
        request = self._request
        return Undecided(
            request_id.get(), request.operation, outcome, fault, seconds, caller=request.caller, counted=counted
        )

    def _tell(self, tried: Try, outcome: str) -> None:
        """What came of a try with an adapter whose alias has a canary; the cache's answers say nothing of a version."""
        aim = tried.path.aim
        if aim is None or not aim.on_trial or tried.cached or tried.sent is None:
            return
        came_of_it = tried.failure or ("ok" if tried.ended is not None else outcome)
        seconds = (tried.ended or time.perf_counter()) - tried.sent - tried.waited
        self._metering.trials.ended(tried.path, aim, came_of_it, tried.refused, seconds)

    def _seconds(self) -> dict[str, float]:
        admitted, tries = self._admitted or 0.0, self._tries
        seconds = tries[0].seconds if len(tries) == 1 else _added([t.seconds for t in tries])
        # What it was to cost is held after the decision, which may wait for Redis as all of admission may.
        held = tries[0].begun - self._arrived - self._decided if tries else 0.0
        seconds["admission"] = admitted + held
        seconds["classification"] = self._decided - admitted
        total = seconds["total"] = time.perf_counter() - self._arrived
        if self._first_token is not None:
            seconds["first_token"] = self._first_token
            seconds["generation"] = total - self._first_token
        return seconds

    def _with_embedding(self, parts: Mapping[str, int]) -> Mapping[str, int]:
        """The question was embedded to tell its task, where it has a vector."""
        if self._decision is None or self._decision.vector is None:
            return parts
        embedding = self._metering.pricing.embeddings(1)
        return {**parts, "embedding": parts.get("embedding", 0) + embedding} if embedding else parts

    def _learn(self, tried: Try, parts: Parts, asked: int) -> None:
        """What its answer was like, which has come to its end."""
        beside = 0
        if len(parts) > len(_OF_TOKENS):
            beside = sum([amount for component, amount in parts.items() if component not in _NO_HABIT])
        assert tried.usage is not None
        self._metering.expected_cost.habits.learn(tried.path, asked, tried.usage, beside)


def _summed(tries: Sequence[Try]) -> Usage:
    return tries[0].counted if len(tries) == 1 else sum((t.counted for t in tries), Usage())


def _added(all_parts: Sequence[Mapping[str, Amount]]) -> dict[str, Amount]:
    """Part by part."""
    added: dict[str, Amount] = {}
    for parts in all_parts:
        for name, amount in parts.items():
            added[name] = added[name] + amount if name in added else amount
    return added
