"""The stage: a meter runs along with each request and writes its receipt, however the request ends."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunks, Decision, Path, Prompt, Receipt, Request, Usage
from pointsman_gateway.metering.faults import fault_of
from pointsman_gateway.metering.gen_ai import GenAi
from pointsman_gateway.metering.outcomes import Trials
from pointsman_gateway.metering.pricing import ExpectedCost, Pricing, tokens_of
from pointsman_gateway.metering.prometheus import Metrics


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
        return Meter(self, request)


@dataclass(slots=True)
class _Try:
    """What one path was given to do."""

    path: Path
    begun: float
    prompt: Prompt = field(default_factory=lambda: Prompt(()))
    sent: float | None = None
    first_piece: float | None = None
    pieces: int = 0
    held: float = 0.0
    usage: Usage | None = None
    model: str = ""
    cached: str = ""
    hedged: int = 0
    waited: float = 0.0
    """Seconds until its adapter was loaded, or was not."""
    failure: str = ""
    """The code of what kept it from answering."""
    refused: bool = False
    """By a validator."""
    ended: float | None = None
    """When its answer had come to its end, where another was wanted after it."""

    @property
    def counted(self) -> Usage:
        """The engine's own count; where an answer was cut before it came, an estimate.

        That is the pieces that arrived (a token or more each), and the prompt by its length: it has been read by then.
        """
        if self.usage is not None or not self.pieces:
            return self.usage or Usage()
        return Usage(tokens_of(self.prompt.messages), self.pieces)

    @property
    def overhead(self) -> float:
        """Seconds from beginning to sending, without retrieval."""
        return 0.0 if self.sent is None else self.sent - self.begun - self.prompt.seconds.get("retrieval", 0.0)

    @property
    def seconds(self) -> dict[str, float]:
        seconds = dict(self.prompt.seconds)
        if self.waited:
            seconds["adapter"] = self.waited
        if self.first_piece is not None and self.sent is not None:
            seconds["queue_and_prefill"] = self.first_piece - self.sent - self.waited
        if self.held:
            seconds["held"] = self.held
        return seconds


class Meter:
    """Times and counts one request: all that was tried for it."""

    def __init__(self, metering: Metering, request: Request) -> None:
        self._metering = metering
        self._request = request
        self._arrived = request.arrived or time.perf_counter()
        self._decision: Decision | None = None
        self._decided = 0.0
        self._first_token: float | None = None
        self._tries: list[_Try] = []
        self._refused: _Try | None = None
        """The one from which another was escalated to."""
        self._answers: _Try | None = None
        """The one whose answer the caller gets."""

    def decided(self, decision: Decision) -> None:
        self._decision, self._decided = decision, self.elapsed
        self._metering.metrics.decided(decision, self.elapsed)

    def tries(self, path: Path) -> None:
        """What follows is the work of `path`."""
        self._answers = _Try(path, time.perf_counter())
        self._tries.append(self._answers)

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
        self._answers, self._refused = self._refused, None
        self.fell_back(source, decision)

    def prompted(self, prompt: Prompt) -> None:
        self._now.prompt = prompt
        self._now.sent = time.perf_counter()

    def opened(self, model: str, cached: str = "", hedged: int = 0, waited: float = 0.0) -> None:
        """`model` has begun to answer, or what it once answered was found in the cache.

        `hedged` other engines were given the same prompt, and let go of before they began. `waited` seconds passed
        until its adapter was loaded.
        """
        self._now.hedged = hedged
        self._now.waited = waited
        self._now.model = model
        self._now.cached = cached

    def came(self, chunks: Chunks) -> None:
        """A part of the answer has come."""
        tried = self._now
        tried.pieces += len([chunk for chunk in chunks if chunk.content or chunk.extra])
        if tried.first_piece is None and tried.pieces:
            tried.first_piece = time.perf_counter()

    def held(self) -> None:
        """The answer was kept back from its first piece until now."""
        self._now.held = time.perf_counter() - (self._now.first_piece or time.perf_counter())

    def used(self, usage: Usage) -> None:
        self._now.usage = usage
        if not self._now.cached:
            self._metering.gen_ai.used(self._request.operation, self._now.model, usage)

    def handed_on(self, chunks: Chunks) -> None:
        """The caller gets a part of the answer."""
        if self._first_token is None and any(chunk.content or chunk.extra for chunk in chunks):
            self._first_token = self.elapsed

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._arrived

    @property
    def overhead(self) -> float:
        """Seconds of the gateway's own: deciding, and making prompts without looking anything up."""
        return self._decided + sum(t.overhead for t in self._tries)

    @property
    def _now(self) -> _Try:
        assert self._answers is not None  # tries() comes first
        return self._answers

    def finish(self, outcome: str, error: PointsmanError | None = None) -> Receipt | None:
        """The receipt, counted; None where nothing had been decided yet. `error` is what the caller is told, if any."""
        fault = fault_of(outcome, error)
        if self._decision is None:
            self._metering.metrics.refused.labels(outcome, fault).inc()
            self._metering.gen_ai.refused(self._request, outcome, self.elapsed)
            return None
        receipt = Receipt(
            decision=self._decision,
            usage=_summed(self._tries),
            cost_parts_usd=_added([self._parts_usd(t) for t in self._tries]),
            seconds=self._seconds(),
            outcome=outcome,
            sources=self._answers.prompt.passages if self._answers else (),
            model=self._answers.model if self._answers else "",
            escalated_from=self._refused.path.name if self._refused else "",
            cached=self._answers.cached if self._answers else "",
        )
        self._metering.metrics.ended(receipt, fault)
        self._metering.gen_ai.answered(self._request, receipt)
        for tried in self._tries:
            if tried.path.aim is not None:
                self._tell(tried, outcome)
        if outcome == "ok":
            self._learn()
        return receipt

    def _tell(self, tried: _Try, outcome: str) -> None:
        """What came of a try with an adapter whose alias has a canary; the cache's answers say nothing of a version."""
        aim = tried.path.aim
        if aim is None or not aim.on_trial or tried.cached or tried.sent is None:
            return
        came_of_it = tried.failure or ("ok" if tried.ended is not None else outcome)
        seconds = (tried.ended or time.perf_counter()) - tried.sent - tried.waited
        self._metering.trials.ended(tried.path, aim, came_of_it, tried.refused, seconds)

    def _seconds(self) -> dict[str, float]:
        seconds = {"classification": self._decided, **_added([t.seconds for t in self._tries]), "total": self.elapsed}
        if self._first_token is not None:
            seconds["first_token"] = self._first_token
            seconds["generation"] = seconds["total"] - self._first_token
        return seconds

    def _parts_usd(self, tried: _Try) -> dict[str, float]:
        if tried.cached:
            return self._metering.pricing.hit_usd(tried.prompt.searches)
        parts = self._metering.pricing.parts_usd(tried.path.model, tried.counted, tried.prompt.searches)
        # They have read the prompt, and tell nothing of it; so it is priced as it was for the one that answered.
        return {**parts, "hedge": (parts["prompt"] + parts["cached"]) * tried.hedged} if tried.hedged else parts

    def _learn(self) -> None:
        """What each path's answer cost, where it came to its end."""
        for tried in self._tries:
            if tried.usage and not tried.cached:
                self._metering.expected_cost.learn(tried.path, sum(self._parts_usd(tried).values()))


def _summed(tries: Sequence[_Try]) -> Usage:
    return tries[0].counted if len(tries) == 1 else sum((t.counted for t in tries), Usage())


def _added(all_parts: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Part by part."""
    if len(all_parts) == 1:
        return all_parts[0]
    added: dict[str, float] = {}
    for parts in all_parts:
        for name, amount in parts.items():
            added[name] = added.get(name, 0.0) + amount
    return added
