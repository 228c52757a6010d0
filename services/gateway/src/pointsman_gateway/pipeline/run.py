"""One request for an answer, from start to end.

A run takes a slot, reserves a part of the caller's limits, classifies the request, chooses a path, builds the prompt,
and calls an engine. It meters, validates and sends the answer, logs the receipt, and settles the reservation. The next
path answers instead if a path fails before its answer has begun, or if a validator rejects its buffered answer.

A run is one coroutine, which needs no asyncio task while it waits for nothing but its engine (`EagerRun`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pointsman_servicekit.eager import EagerRun, Signal
from pointsman_servicekit.errors import PointsmanError, ResourceExhausted, Unavailable, take_error
from pointsman_servicekit.logs import decision_id

from pointsman_gateway.domain import (
    Chunks,
    CompletedAnswer,
    Decision,
    Finished,
    Receipt,
    Request,
    Started,
    UndecidedReceipt,
)
from pointsman_gateway.domain.conversation import ConversationStep, Step
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK
from pointsman_gateway.engines.engine_client import NOT_RESIDENT, NotLoaded, NotLoadedInTime, NotServed, not_served
from pointsman_gateway.extensions import NothingRelevant
from pointsman_gateway.metering.token_estimates import estimate_total_tokens
from pointsman_gateway.pipeline.attempt import Attempt
from pointsman_gateway.pipeline.metered import MeteredRequest
from pointsman_gateway.pipeline.path_budget import reserve_cost, reserve_later_cost
from pointsman_gateway.pipeline.public_error import to_public_error
from pointsman_gateway.ports import AnswerSink, AnswerSource
from pointsman_gateway.validation.stage import AnswerChecks

if TYPE_CHECKING:
    from pointsman_gateway.pipeline.pipeline import Pipeline


def with_known_model(request: Request, resolve_model: Callable[[str], str]) -> Request:
    """Returns the request with its `model` replaced by `resolve_model(model)`, for names that the configuration maps.

    These are other names for a model, and unknown names if the configuration has a model for them.
    """
    model = resolve_model(request.model)
    return request if model == request.model else replace(request, model=model)


class RequestRun:
    """Passes one request through all stages, sends the answer to a sink, and makes the receipt whatever the outcome.

    Implements `ChunkSink` and `RunControl`.
    """

    __slots__ = (
        "_attempts", "_checks", "_end", "_execution", "_has_first_token", "_is_paused",
        "_meter", "_metered", "_pipeline", "_reads", "_reason", "_request", "_reserved_usd",
        "_sink", "_source", "_stages", "_step", "error",
    )  # fmt: skip

    def __init__(self, pipeline: "Pipeline", request: Request, sink: AnswerSink) -> None:
        """Prepares a run. Must be called in the request's context, from which the run takes the request's id."""
        self._pipeline = pipeline
        self._stages = stages = pipeline.current()
        self._request = request = with_known_model(request, stages.resolve_model)
        self._sink = sink
        self._meter = stages.metering.start(request)
        self._metered = MeteredRequest(pipeline, request)
        self._is_paused = self._has_first_token = self._reads = False
        self._reserved_usd = 0.0
        """The dollars that are reserved for the next answer."""
        self._step: ConversationStep | None = None
        """The request's place in its conversation; None if routing does not depend on the conversation."""
        self._checks: AnswerChecks | None = None
        self._attempts: list[Attempt] = []
        """The attempts whose text the request log needs."""
        self._source: AnswerSource | None = None
        self._end = Signal()
        self.error: Exception | None = None
        """The error that ended the answer's source, until it is raised."""
        self._reason: PointsmanError | None = None
        self._execution = EagerRun(self._run())

    @property
    def is_over(self) -> bool:
        return self._execution.is_over

    def start(self) -> None:
        """Begins to handle the request; returns when the request first has to wait for something, or has ended."""
        self._pipeline.active_runs.add(self, self._request.deadline)
        self._execution.start()

    # -- called by the server

    def pause(self) -> None:
        """Stops sending the answer until `resume`, because its client reads too slowly (backpressure)."""
        self._is_paused = True
        if self._source is not None:
            self._source.pause()

    def resume(self) -> None:
        self._is_paused = False
        if self._source is not None:
            self._source.resume()

    def cancel(self, reason: PointsmanError | None = None) -> None:
        """Ends the request, and stops the engine at once. The client gets the error `reason`; None means that the
        client has disconnected. If it is called more than once, the first reason that is not None counts.
        """
        if self._reason is None:
            self._reason = reason
        self._execution.cancel()

    # -- called by the answer's source

    def chunks(self, chunks: Chunks, last: bool) -> None:
        if not self._has_first_token:
            self._has_first_token = self._meter.mark_first_token(chunks)
        self._sink.chunks(chunks, last)

    def ended(self, error: Exception | None) -> None:
        self.error = error
        self._end.set()

    # -- from start to end

    async def _run(self) -> None:
        outcome, error = CANCELLED, None
        try:
            await self._answer()
            outcome = OK
        except PointsmanError as failure:
            outcome, error = failure.code, failure
        except asyncio.CancelledError:
            error, self._reason = self._reason, None
            outcome = error.code if error is not None else CANCELLED
        except Exception as bug:
            outcome, error = INTERNAL, to_public_error(bug)
        try:
            self._finish(outcome, error)
        finally:
            error = None  # breaks the reference cycle between the error's traceback and this frame

    def _finish(self, outcome: str, error: PointsmanError | None) -> None:
        receipt, sink = None, self._sink
        self._pipeline.active_runs.remove(self)
        try:
            if outcome != OK:
                self._close_source()  # the engine stops before anything else
            receipt = self._meter.finish(outcome, error if outcome != INTERNAL else None)
            self._metered.log(receipt, error, self._answers() if self._reads and outcome == OK else ())
            if error is not None:
                sink.failed(error)
            elif outcome == OK:
                assert isinstance(receipt, Receipt)  # it was decided
                sink.finished(Finished(self._meter.finish_reason, receipt))
        except Exception as bug:
            sink.failed(to_public_error(bug))
        finally:
            self._release(receipt)

    async def _answer(self) -> None:
        stages, meter, request = self._stages, self._meter, self._request
        reservation = await self._metered.admit(estimate_total_tokens)
        meter.mark_admitted()
        labels = await stages.classification.label(request)
        self._step = step = await stages.conversations.recall(request, labels)
        decision = stages.router.decide(request, labels, step)
        decision_id.set(decision.id)
        meter.set_decision(decision)
        first = decision.path
        decision, self._reserved_usd = await reserve_cost(decision, request, reservation, stages.metering.expected_cost)
        if decision.path is not first:
            meter.record_fallback(first, decision)
        if stages.validation.has_checks(decision):
            self._checks = stages.validation.checks(request, decision)
        self._reads = self._pipeline.request_log.wants_answers(request, decision)
        if step is not None:
            stages.conversations.remember(request, step, decision)
        attempt = await self._accepted_attempt(decision)
        if step is not None and attempt.decision.path is not decision.path:
            stages.conversations.replace_path(request, step, attempt.decision)
        answer = attempt.answer
        self._sink.started(Started(attempt.decision, answer.model, meter.overhead, answer.cached, reservation.headers))
        attempt.pass_on(self)
        if self._is_paused and self._source is not None:
            self._source.pause()
        await self._end
        if self.error is not None:
            raise take_error(self)
        attempt.complete()

    # -- limits

    async def _afford_later(self, decision: Decision) -> Decision:
        """Reserves dollars for the next path of the request, beyond those that are reserved already.

        Returns the decision for the path that is paid. Raises ResourceExhausted or Unavailable (see
        `reserve_later_cost`).
        """
        reservation, costs = self._metered.reservation, self._stages.metering.expected_cost
        decision, self._reserved_usd = await reserve_later_cost(
            decision, self._request, reservation, costs, self._reserved_usd
        )
        return decision

    # -- one path after the other

    async def _accepted_attempt(self, decision: Decision) -> Attempt:
        """Returns the attempt whose answer the client gets: the first one, unless a validator rejects its answer.

        Then it is that of the next path, or the rejected one after all if the next path fails or its cost cannot be
        reserved. Raises the errors of `_first_attempt` for the first answer.
        """
        attempt = await self._first_attempt(decision)
        verdict = attempt.refusal
        if verdict is None:
            return attempt
        rejected, meter = attempt.decision, self._meter
        self._reserved_usd = 0.0  # the reservation pays for the rejected answer
        try:
            following = await self._afford_later(rejected.with_escalation(verdict.validator, str(verdict)))
        except (ResourceExhausted, Unavailable) as error:
            attempt.decision = rejected.with_failed_escalation(
                str(verdict), rejected.with_escalation(verdict.validator, str(verdict)), error.code
            )
            meter.send_refused(attempt.decision)
            return attempt
        meter.record_escalation(rejected.path, following, verdict.validator)
        try:
            return await self._first_attempt(following)
        except PointsmanError as error:
            attempt.decision = rejected.with_failed_escalation(str(verdict), following, error.code)
            meter.record_failure(error.code, _seconds_lost(error))
            meter.restore_refused(following.path, attempt.decision)
            return attempt

    async def _first_attempt(self, decision: Decision) -> Attempt:
        """Tries the decision's path and, after each Unavailable, the next alternative; returns the first whose answer
        has begun.

        Raises the last path's Unavailable if none can answer, NotFound if all engines answered 404, any other error at
        once, and Unavailable as `_alternative` does.
        """
        is_served = False
        while True:
            try:
                return await self._attempt(decision)
            except NotLoadedInTime as error:
                self._meter.record_failure(NOT_RESIDENT, error.waited)
                raise
            except Unavailable as error:
                self._meter.record_failure(error.code, _seconds_lost(error))
                following = await self._alternative(decision, error.code)
                if following is None:
                    if isinstance(error, NotServed) and not is_served:
                        raise not_served(error) from None
                    raise
                is_served = is_served or not isinstance(error, NotServed)
                self._meter.record_fallback(decision.path, following)
                decision = following

    async def _alternative(self, decision: Decision, reason: str) -> Decision | None:
        """Returns the decision for the next path after the decision's path failed with the error code `reason`.

        None if there is no alternative, or the budget allows none. Raises Unavailable as `Reservation.afford` does.
        """
        if not decision.alternatives:
            return None
        if self._meter.has_begun:
            self._reserved_usd = 0.0  # the reservation pays for the answer that broke off
        try:
            following = await self._afford_later(decision.with_fallback(reason))
        except ResourceExhausted:
            return None
        if self._step is not None and self._step.kind is Step.TOOL_LOOP:
            following = following.with_note(f"left {decision.path.name}: {reason}")
        return following

    async def _attempt(self, decision: Decision) -> Attempt:
        stages, request, checks = self._stages, self._request, self._checks
        path_attempt = self._meter.start_attempt(decision.path)
        try:
            prompt = await stages.prompts.build(request, decision)
        except NothingRelevant as nothing:
            path_attempt.prompt = nothing.spent  # no engine is called, but the search is charged
            raise
        path_attempt.set_prompt(prompt)
        engine_request = request if checks is None else checks.engine_request(request)
        answer = await stages.backend.call(engine_request, decision, prompt, path_attempt)
        self._source = answer.source
        path_attempt.set_answer(answer.model, answer.engine, answer.cached, answer.waited, answer.embeddings)
        path_attempt.default_max_tokens = answer.default_max_tokens
        attempt = Attempt(decision, answer, self._meter, path_attempt, checks, self._reads)
        if self._reads:
            self._attempts.append(attempt)
        if decision.is_buffered:
            try:
                await attempt.hold()
            except Exception:
                self._close_source()
                raise
            if attempt.is_complete:
                self._close_source()
        return attempt

    # -- the end

    def _close_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _answers(self) -> tuple[CompletedAnswer, ...]:
        """Returns the texts of the complete answers for the request log; none if one of them cannot be logged as a
        text.
        """
        found = [attempt.answered for attempt in self._attempts if attempt.is_complete]
        return tuple(answer for answer in found if answer is not None) if None not in found else ()

    def _release(self, receipt: Receipt | UndecidedReceipt | None) -> None:
        """Gives back the slot, the reservation and the engine; `receipt` is None if it could not be made."""
        try:
            self._metered.release(receipt)
        finally:
            self._close_source()
            self._sink.closed()


def _seconds_lost(error: PointsmanError) -> float:
    """Returns the seconds that the request waited for an adapter that could not be loaded; 0 for other errors."""
    return error.waited if isinstance(error, NotLoaded) else 0.0
