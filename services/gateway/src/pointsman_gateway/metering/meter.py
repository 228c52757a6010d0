"""Meters one request: times its phases, prices its attempts along paths, and makes its receipt, however it ends."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.domain import (
    UNPRICED,
    AttemptCharge,
    Chunks,
    Decision,
    Path,
    Receipt,
    Request,
    UndecidedReceipt,
    Usage,
)
from pointsman_gateway.domain.outcome import OK, ROUTED, Fault, fault_of, outcome_of
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.attempts import PathAttempt, Work, sum_attempts
from pointsman_gateway.metering.canary_outcomes import CanaryOutcomes
from pointsman_gateway.metering.estimates import estimated_picodollars
from pointsman_gateway.metering.expected_cost import CostEstimator
from pointsman_gateway.metering.price_table import CostParts
from pointsman_gateway.metering.pricing import TOKEN_COMPONENTS, Pricing
from pointsman_gateway.metering.token_estimates import choice_count, estimate_own_tokens

log = logging.getLogger(__name__)

NO_FAULT = Fault.NONE.value
NO_ATTEMPT = PathAttempt(Path("", ""), 0.0)

_PLAIN_PARTS = 3
"""The number of cost components of an answer that costs only plain tokens: prompt, cached, completion."""
_NOT_IN_MEANS = TOKEN_COMPONENTS | {"image", "training", "embedding"}
"""Cost components that a path's mean costs leave out: they are priced by their number in each request."""


class Metering:
    """The prices and metrics that the requests of one configuration share; creates the meter of each request."""

    def __init__(
        self, pricing: Pricing, expected_cost: CostEstimator, aggregator: MetricsAggregator, canary: CanaryOutcomes
    ) -> None:
        self.pricing = pricing
        self.expected_cost = expected_cost
        self.aggregator = aggregator
        self.metrics = aggregator.metrics
        self.gen_ai = aggregator.gen_ai
        self.canary = canary

    def with_counters(self, aggregator: MetricsAggregator, canary: CanaryOutcomes) -> "Metering":
        """Returns a copy that has the same prices, counts requests in the metrics of `aggregator`, and counts the
        outcomes of canaries in `canary`.
        """
        return Metering(self.pricing, self.expected_cost, aggregator, canary)

    def start(self, request: Request) -> "Meter":
        return Meter(self, request)


class Meter:
    """Times and counts one request with all its attempts, and makes its receipt."""

    __slots__ = (
        "_admitted",
        "_answering",
        "_arrived",
        "_attempts",
        "_decided",
        "_decision",
        "_first_decision",
        "_first_token",
        "_metering",
        "_notes",
        "_refused",
        "_request",
    )

    def __init__(self, metering: Metering, request: Request) -> None:
        """Measures all times of the request from its arrival (`Request.arrived_at`) or, if that is 0, from this
        call.
        """
        self._metering = metering
        self._request = request
        self._arrived = request.arrived_at or perf_counter()
        self._admitted: float | None = None
        self._first_decision: Decision | None = None
        """The decision as it was made, before a failure or a rejected answer moved the request to another path."""
        self._decision: Decision | None = None
        self._decided = 0.0
        self._first_token: float | None = None
        self._attempts: list[PathAttempt] = []
        self._answering: PathAttempt | None = None
        """The attempt whose answer the caller gets."""
        self._refused: PathAttempt | None = None
        """The attempt whose answer was refused, so that the request was escalated."""
        self._notes: tuple[str, ...] = ()
        """Remarks for the receipt's decision: on a usage that is impossible, and on prices that are missing."""

    def mark_admitted(self) -> None:
        """Records the time at which the request was admitted: it got a slot, and its caller's limits allowed it."""
        self._admitted = perf_counter() - self._arrived

    def set_decision(self, decision: Decision) -> None:
        self._decision = self._first_decision = decision
        self._decided = perf_counter() - self._arrived

    def start_attempt(self, path: Path) -> PathAttempt:
        """Ends the current attempt, and starts one along `path`. Returns the new attempt, to which the caller reports
        what the engine does.
        """
        now = perf_counter()
        if self._answering is not None and self._answering.ended is None:
            self._answering.ended = now
        self._answering = attempt = PathAttempt(path, now)
        self._attempts.append(attempt)
        return attempt

    def record_fallback(self, source: Path, decision: Decision) -> None:
        self._decision = decision
        self._metering.metrics.count_fallback(source, decision.path)

    def record_failure(self, code: str, loading_seconds: float) -> None:
        """Records that the current attempt failed with the error code `code`, and had waited `loading_seconds` for an
        adapter.
        """
        self._current.failure = code
        self._current.loading_seconds += loading_seconds

    def record_verdict(self, decision: Decision, validator: str, ruling: str) -> None:
        self._current.refused |= ruling == "refused"
        self._metering.metrics.count_verdict(decision, validator, ruling)

    def record_escalation(self, source: Path, decision: Decision, validator: str) -> None:
        """Records that the validator named `validator` rejected the answer of the path `source`, so the request is
        escalated to the path of `decision`.
        """
        self._current.ended = perf_counter()
        self._decision, self._refused = decision, self._answering
        self._metering.metrics.count_escalation(source, decision, validator)

    def restore_refused(self, source: Path, decision: Decision) -> None:
        """Records that the path `source`, to which the request was escalated, failed, so the caller gets the first
        answer, although a validator had rejected it.

        `decision` names the path of that answer.
        """
        self._current.ended = perf_counter()
        self._answering, self._refused = self._refused, None
        self.record_fallback(source, decision)

    def send_refused(self, decision: Decision) -> None:
        """Records that the caller gets an answer which a validator rejected, because the next path could not be tried;
        the notes of `decision` say why.
        """
        self._decision = decision

    def record_buffering(self) -> None:
        """Records that the answer was held back for a validator from its first piece until the time of this call."""
        self._current.buffered_seconds = perf_counter() - (self._current.first_piece or perf_counter())

    def set_usage(self, usage: Usage) -> None:
        """Sets the tokens of the current attempt, as the engine counted or the gateway estimated them.

        Counts that are higher than possible are cut, which the receipt notes and the log reports.
        """
        path = self._current.path
        window = self._metering.pricing.context_window(path.model)
        limit = self._request.sampling.max_tokens
        if usage.prompt_tokens > window or usage.completion_tokens > (window if limit is None else limit):
            usage = self._cap(usage, path, window)
        if usage.details is not None and usage.details.is_estimate:
            self._current.estimate = usage
        else:
            self._current.usage = usage

    def _cap(self, usage: Usage, path: Path, window: int) -> Usage:
        """Returns the usage with at most the model's context window of tokens for each prompt, and for each choice at
        most `max_tokens`, or the context window if that is less. If that changes the usage, it is noted and logged.
        """
        request, choices = self._request, choice_count(self._request)
        prompts = len(request.messages) if request.operation == "completion" else 1
        limit = request.sampling.with_defaults(path.sampling).max_tokens
        answer = choices * (window if limit is None else max(1, min(limit, window)))
        capped = usage.capped(prompts * window, answer)
        if capped == usage:
            return usage
        note = (
            f"usage capped: the engine reported {usage.prompt_tokens} prompt and {usage.completion_tokens} completion "
            f"tokens, at most {prompts * window} and {answer} are possible"
        )
        self._notes += (note,)
        log.warning("path %s: %s", path.name, note)
        self._metering.metrics.count_capped_usage(path)
        return capped

    def mark_first_token(self, chunks: Chunks) -> bool:
        """Returns whether one of the chunks that are sent to the caller has a token, and if so records that the first
        token is sent now. Must not be called again after it has returned True.
        """
        for chunk in chunks:
            if chunk.content or chunk.extra:
                self._first_token = perf_counter() - self._arrived
                return True
        return False

    @property
    def finish_reason(self) -> str:
        """Returns the engine's finish reason of the answer that the caller gets, such as "stop"; empty if there is no
        reason.
        """
        return self._current.finish_reason

    @property
    def has_begun(self) -> bool:
        """Returns whether the current attempt may cost money: an engine has sent a part of its answer, or had the
        prompt when the call was given up.
        """
        return bool(self._current.pieces or self._current.unanswered)

    @property
    def elapsed(self) -> float:
        return perf_counter() - self._arrived

    @property
    def overhead(self) -> float:
        """Returns the seconds that the gateway itself took: from the arrival to the decision, and in each attempt until
        the prompt was sent, without retrieval.
        """
        overhead = self._decided
        for attempt in self._attempts:
            overhead += attempt.overhead()
        return overhead

    @property
    def _current(self) -> PathAttempt:
        assert self._answering is not None  # start_attempt() comes first
        return self._answering

    def finish(self, outcome: str, error: PointsmanError | None = None) -> Receipt | UndecidedReceipt:
        """Makes and returns the receipt, and adds it to the metrics, to the mean costs of its paths, and to the
        counts of canaries.

        Returns an `UndecidedReceipt` if no path was chosen. `outcome` is "ok", "cancelled" or an error's code.
        `error` is the error that the caller gets; None if there is none, or if it is a bug ("internal").
        """
        fault = NO_FAULT
        if outcome != OK:
            fault, outcome = fault_of(outcome, error), outcome_of(outcome, error)
        decision, first = self._decision, self._first_decision
        if decision is None or first is None:
            return self._reject(outcome, fault)
        metering, request, by_engine = self._metering, self._request, False
        answering, own_tokens = self._answering or NO_ATTEMPT, estimate_own_tokens(request)
        work: list[Work] = []
        for attempt in self._attempts:
            done = usage, parts, seconds = attempt.work(metering.pricing, request)
            work.append(done)
            if attempt.path.resolved_adapter is not None:
                self._count_canary(attempt, outcome)
            if attempt.usage is not None and not attempt.cached:
                by_engine = True
                if outcome == OK:
                    is_plain = usage.details is None and len(parts) == _PLAIN_PARTS
                    other = 0 if is_plain else self._other_picodollars(attempt.path, usage, parts)
                    prefill = seconds.get("prefill", 0.0)
                    embeddings = attempt.embeddings_made if decision.vector is None else None
                    metering.expected_cost.statistics.add(attempt.path, own_tokens, usage, other, prefill, embeddings)
        charges: tuple[AttemptCharge, ...] = ()
        if len(work) != 1:
            by_engine = False
            usage, parts, seconds = sum_attempts(work)
            self._count_tokens()
            charges = self._charges(work)
        if UNPRICED in parts:
            self._note_missing_prices(work)
        if self._notes:
            decision = replace(decision, notes=(*decision.notes, *self._notes))
        receipt = Receipt(
            decision,
            usage,
            parts if decision.vector is None else self._with_embedding(parts),
            self._with_request_phases(seconds),
            outcome,
            answering.prompt.sources,
            answering.model,
            self._refused.path.name if self._refused is not None else "",
            answering.cached,
            fault,
            request_id.get(),
            engine=answering.engine,
            attempts=charges,
            default_max_tokens=answering.default_max_tokens,
        )
        if usage.details is not None:
            metering.metrics.count_token_details(receipt, usage.details)
            if by_engine:
                metering.gen_ai.count_details(request.operation, receipt.model, usage.details)
        if "hedge" in parts or usage.is_estimate:
            estimates = estimated_picodollars(zip(self._attempts, work, strict=True), outcome)
            metering.metrics.count_estimates(receipt, estimates)
        metering.aggregator.add((receipt, first, request.operation, request.model, own_tokens, by_engine))
        return receipt

    def finish_route(self, outcome: str, error: PointsmanError | None = None) -> Receipt | UndecidedReceipt:
        """Returns the receipt of a request that asks only which path would be chosen, and counts it in the metrics.

        It costs nothing, and its outcome is "routed" instead of "ok". `outcome` is "ok", "cancelled" or an error's
        code, and `error` the error that the caller gets. An `UndecidedReceipt` is returned if no path was chosen.
        """
        outcome = ROUTED if outcome == OK else outcome
        fault, outcome = fault_of(outcome, error), outcome_of(outcome, error)
        decision = self._decision
        if decision is None:
            return self._reject(outcome, fault)
        _, _, seconds = sum_attempts(
            [attempt.work(self._metering.pricing, self._request) for attempt in self._attempts]
        )
        seconds = self._with_request_phases(seconds)
        receipt = Receipt(decision, Usage(), {}, seconds, outcome, fault=fault, request_id=request_id.get())
        self._metering.metrics.count_route(receipt)
        return receipt

    def _reject(self, outcome: str, fault: str) -> UndecidedReceipt:
        seconds = {"total": self.elapsed}
        seconds["admission"] = seconds["total"] if self._admitted is None else self._admitted
        self._metering.metrics.count_rejected(outcome, fault)
        if self._request.operation in ("chat", "completion"):
            self._metering.gen_ai.observe_rejected(self._request, outcome, seconds["total"])
        request = self._request
        return UndecidedReceipt(
            request_id.get(),
            request.operation,
            outcome,
            fault,
            seconds,
            caller=request.caller,
            counts_as_request=self._admitted is not None,
        )

    def _count_canary(self, attempt: PathAttempt, outcome: str) -> None:
        """Counts an attempt whose alias has a canary. Answers from the cache say nothing about a version, and are not
        counted, nor are attempts whose prompt was not sent.
        """
        adapter = attempt.path.resolved_adapter
        if adapter is None or not adapter.has_canary or attempt.cached or attempt.sent is None:
            return
        outcome = attempt.failure or ("ok" if attempt.ended is not None else outcome)
        seconds = (attempt.ended or perf_counter()) - attempt.sent - attempt.loading_seconds
        self._metering.canary.add(attempt.path, adapter, outcome, attempt.refused, seconds)

    def _with_request_phases(self, seconds: dict[str, float]) -> dict[str, float]:
        """Adds the phases of the whole request to `seconds`, those of its attempts, and returns `seconds`.

        The phases are "admission", "classification" and "total"; after a first token also "first_token" and
        "generation".
        """
        admitted, attempts = self._admitted or 0.0, self._attempts
        # The cost is reserved after the decision, and that may wait for Redis like the rest of the admission.
        reserving = attempts[0].started - self._arrived - self._decided if attempts else 0.0
        seconds["admission"] = admitted + reserving
        seconds["classification"] = self._decided - admitted
        total = seconds["total"] = perf_counter() - self._arrived
        if self._first_token is not None:
            seconds["first_token"] = self._first_token
            seconds["generation"] = total - self._first_token
        return seconds

    def _count_tokens(self) -> None:
        """Adds the tokens of each answer that an engine generated to the metrics; the receipt has only their sum."""
        for attempt in self._attempts:
            if attempt.usage is not None and not attempt.cached:
                self._metering.gen_ai.observe_tokens(self._request.operation, attempt.model, attempt.usage)

    def _charges(self, work: Sequence[Work]) -> tuple[AttemptCharge, ...]:
        """Returns what the answer of each engine cost; empty if only the engine of the answer that the caller gets was
        used.
        """
        charges = [
            AttemptCharge(attempt.engine, attempt.model, usage, parts)
            for attempt, (usage, parts, _) in zip(self._attempts, work, strict=True)
            if attempt.engine and (any(parts.values()) or usage.prompt_tokens or usage.completion_tokens)
        ]
        if len(charges) == 1 and charges[0].engine == (self._answering or NO_ATTEMPT).engine:
            return ()
        return tuple(charges)

    def _other_picodollars(self, path: Path, usage: Usage, parts: CostParts) -> int:
        """Returns the picodollars of an answer besides its plain tokens, images, embeddings and training."""
        other = sum([amount for component, amount in parts.items() if component not in _NOT_IN_MEANS])
        return other + self._metering.pricing.surcharge(path.model, usage, parts)

    def _note_missing_prices(self, work: Sequence[Work]) -> None:
        for attempt, (usage, _, _) in zip(self._attempts, work, strict=True):
            note = self._metering.pricing.missing_price(attempt.path.model, usage)
            if note and note not in self._notes:
                self._notes += (note,)

    def _with_embedding(self, parts: CostParts) -> CostParts:
        """Returns `parts` with the cost of one more embedding, that of the query for its classification."""
        embedding = self._metering.pricing.embeddings(1)
        return {**parts, "embedding": parts.get("embedding", 0) + embedding} if embedding else parts
