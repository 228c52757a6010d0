"""The one line that every request walks, whichever door it came through."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError, ResourceExhausted
from pointsman_servicekit.logs import NO_ID, decision_id

from pointsman_gateway.admission import Admission
from pointsman_gateway.answering import Answering
from pointsman_gateway.begun import AtOnce, Begun, Hold, first_step
from pointsman_gateway.domain import (
    ANONYMOUS,
    Caller,
    CompletedAnswer,
    Decision,
    Event,
    Finished,
    Labels,
    Operation,
    Prompt,
    Receipt,
    Request,
    Started,
    UndecidedReceipt,
)
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK, ROUTED
from pointsman_gateway.faults import fault_of, outcome_of
from pointsman_gateway.line import Line
from pointsman_gateway.metering.meter import Meter
from pointsman_gateway.metering.pricing import expected_tokens


class Journal(Protocol):
    """Keeps the receipt of every request; never waits, never fails."""

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """Whether they are to be read along, for `note`."""
        ...

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        """What was decided, and what came of it. `answers`: the last one is the caller's."""
        ...

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """What came to no decision."""
        ...


class Tenancy(Protocol):
    """Knows what each caller may still use."""

    def enter_now(self, caller: Caller, tokens: int) -> Hold | None:
        """Reserves a request, and as many tokens; None where `enter` is to be asked. Raises ResourceExhausted."""
        ...

    async def enter(self, caller: Caller, tokens: int) -> Hold:
        """Raises ResourceExhausted."""
        ...

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """How the caller's limits stand, as OpenAI words it."""
        ...


@dataclass(frozen=True, slots=True)
class Routed:
    """What a request would come to, which asks for that alone."""

    decision: Decision
    prompt: Prompt | None
    """Where it was wanted."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    admission: Admission
    tenancy: Tenancy
    current: Callable[[], Line]
    journal: Journal

    def begin(self, request: Request) -> Begun:
        """As far as it goes without waiting. Whoever has it hands it to `answer`, or else to `end`."""
        line = self.current()
        begun = Begun(request, line, line.metering.start(request), self.admission.admitted(request))
        try:
            self._advance(begun)
        except Exception as error:
            begun.error = error
        return begun

    async def go_on(self, begun: Begun) -> None:
        """What `begin` could not do at once, for one that has a place. An error is left in `begun`, for who ends it.

        Whoever is cancelled here ends it too.
        """
        try:
            await self._ready(begun)
        except Exception as error:
            begun.error = error

    async def answer(self, request: Request, begun: Begun | None = None) -> AsyncIterator[Event]:
        """One Started, Chunks, one Finished; or an error. Closing the iterator stops the engine's work.

        Goes on with what is `begun`, if anything is. Raises PointsmanError. Before Started another path may be taken;
        after it never.
        """
        begun = begun or self.begin(request)
        meter = begun.meter
        decision_id.set(begun.decision.id if begun.decision else NO_ID)
        outcome, failure = CANCELLED, None
        try:
            if begun.error is not None:
                raise begun.error
            async with begun.place:
                decision, hold = await self._ready(begun)
                decision_id.set(decision.id)
                answering = Answering(begun, decision, self.journal.wants_answers(request, decision))
                finish_reason, heard = "", False
                try:
                    answer = await answering.begin(decision)
                    yield Started(answer.decision, answer.model, meter.overhead, answer.cached, hold.headers)
                    async for chunks in answer.chunks:
                        for chunk in chunks:
                            if chunk.finish_reason:
                                finish_reason = chunk.finish_reason
                        heard = heard or meter.handed_on(chunks)
                        yield chunks
                finally:
                    await answering.aclose()
                outcome = OK
                receipt = self.end(begun, outcome, answers=answering.answers)
                assert isinstance(receipt, Receipt)  # it was decided
        except PointsmanError as error:
            outcome, failure = error.code, error
            raise
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:
            outcome = INTERNAL
            raise
        finally:
            if outcome != OK:
                self.end(begun, outcome, failure)
            failure = None  # or it and this frame, which is in its traceback, hold each other
        yield Finished(finish_reason, receipt)  # it has its receipt: whatever happens to the reader now is no other end

    def end(
        self,
        begun: Begun,
        outcome: str,
        failure: PointsmanError | None = None,
        answers: tuple[CompletedAnswer, ...] = (),
    ) -> Receipt | UndecidedReceipt:
        """Writes the request's receipt, and settles all that was held for it. Called once.

        `outcome` is "ok", "cancelled", "internal" or the code of `failure`, which is given the receipt.
        """
        try:
            return self.write(begun, outcome, failure, answers)
        finally:
            self.settle(begun)

    def write(
        self,
        begun: Begun,
        outcome: str,
        failure: PointsmanError | None = None,
        answers: tuple[CompletedAnswer, ...] = (),
    ) -> Receipt | UndecidedReceipt:
        """The first half of `end`, before the caller hears the end."""
        begun.receipt = receipt = begun.meter.finish(outcome, failure)
        if failure is not None:
            _give(failure, receipt)
        self._note(begun.request, receipt, answers)
        return receipt

    def settle(self, begun: Begun) -> None:
        """The second half of `end`, for which no caller has to wait."""
        begun.error = begun.failed = None
        begun.place.leave()
        if begun.labelling is not None:
            begun.labelling.close()
        if begun.hold is not None and begun.receipt is not None:
            _settle(begun.hold, begun.receipt)

    async def decide(self, request: Request, with_prompt: bool = False) -> Routed:
        """The decision alone, and the prompt that `answer` would send where that is wanted. Raises PointsmanError."""
        line = self.current()
        meter = line.metering.start(replace(request, operation="route"))
        outcome, hold, failure, decision = CANCELLED, None, None, None
        try:
            async with self.admission.admitted(request):
                hold = self._enter_now(request, 0) or await self._enter(request, 0)
                meter.admitted()
                decision = line.router.decide(request, await line.classification.label(request))
                meter.decided(decision)
                decision_id.set(decision.id)
                prompt = await _prompted(line, meter, request, decision) if with_prompt else None
            outcome = ROUTED
        except PointsmanError as error:
            outcome, failure = error.code, error
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            outcome = INTERNAL
            raise
        finally:
            receipt = meter.finish(outcome, failure) if decision is None else _routed(meter, outcome, failure)
            if failure is not None:
                _give(failure, receipt)
            if hold is not None:
                _settle(hold, receipt)
            self._note(request, receipt)
            failure = None  # or it and this frame, which is in its traceback, hold each other
        return Routed(decision, prompt)

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float]:
        """Dollars by path, of those that were considered: what the request is likely to cost there."""
        return self.current().router.costs(request, decision)

    def turned_away(
        self, operation: Operation, error: PointsmanError | None, arrived: float = 0.0, caller: Caller = ANONYMOUS
    ) -> None:
        """A door has refused a request before it came to the line, or (without an error) lost its client: the request
        leaves its receipt all the same."""
        meter = self.current().metering.start(Request("", (), caller=caller, arrived_at=arrived, operation=operation))
        receipt = meter.finish(error.code if error else CANCELLED, error)
        assert isinstance(receipt, UndecidedReceipt)  # nothing has decided
        self.journal.note_undecided(receipt)

    def _advance(self, begun: Begun) -> None:
        """To its first wait."""
        request = begun.request
        if not begun.place.enter_now():
            return
        begun.hold = self._enter_now(request, expected_tokens(request))
        if begun.hold is None:
            return
        begun.meter.admitted()
        labelled = first_step(begun.line.classification.label(request))
        if isinstance(labelled, AtOnce):
            _decide(begun, begun.hold, labelled.result)
        else:
            begun.labelling = labelled

    async def _ready(self, begun: Begun) -> tuple[Decision, Hold]:
        """Does what is still to be done before an engine is asked."""
        request = begun.request
        if begun.hold is None:
            tokens = expected_tokens(request)
            begun.hold = self._enter_now(request, tokens) or await self._enter(request, tokens)
            begun.meter.admitted()
        hold = begun.hold
        if begun.decision is None:
            labelling, begun.labelling = begun.labelling, None
            labels = await (labelling or begun.line.classification.label(request))
            _decide(begun, hold, labels)
        decision = begun.decision
        assert decision is not None
        if not begun.afforded:
            decision = await _afforded(begun, hold, decision)
        return decision, hold

    def _enter_now(self, request: Request, tokens: int) -> Hold | None:
        try:
            return self.tenancy.enter_now(request.caller, tokens)
        except ResourceExhausted as error:
            error.limits = self.tenancy.headers(request.caller)
            raise

    async def _enter(self, request: Request, tokens: int) -> Hold:
        try:
            return await self.tenancy.enter(request.caller, tokens)
        except ResourceExhausted as error:
            error.limits = self.tenancy.headers(request.caller)
            raise

    def _note(
        self, request: Request, receipt: Receipt | UndecidedReceipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        if isinstance(receipt, Receipt):
            self.journal.note(request, receipt.decision, receipt, answers)
        else:
            self.journal.note_undecided(receipt)


def _give(failure: PointsmanError, receipt: Receipt | UndecidedReceipt) -> None:
    """Where it came from nobody asks any more, and those frames hold what holds it: a cycle for the collector."""
    failure.receipt = receipt
    failure.__traceback__ = None


def _settle(hold: Hold, receipt: Receipt | UndecidedReceipt) -> None:
    hold.settle(receipt.usage, receipt.cost_usd, receipt.outcome)


def _decide(begun: Begun, hold: Hold, labels: Labels) -> None:
    begun.decision = decision = begun.line.router.decide(begun.request, labels)
    begun.meter.decided(decision)
    costs = begun.line.metering.expected_cost
    try:
        begun.afforded = hold.afford_now(decision.expected_cost_usd + costs.beside(decision))
    except ResourceExhausted:
        if not decision.alternatives:
            raise


async def _afforded(begun: Begun, hold: Hold, decision: Decision) -> Decision:
    """The decision; by the first alternative that its caller has the dollars for, where its path costs more. Raises
    ResourceExhausted."""
    costs, first = begun.line.metering.expected_cost, decision.path
    while not begun.afforded:
        try:
            await hold.afford(decision.expected_cost_usd + costs.beside(decision))
            begun.afforded = True
        except ResourceExhausted as error:
            if not decision.alternatives:
                raise
            decision = decision.with_fallback(error.code)
            decision = replace(decision, expected_cost_usd=costs.usd(decision.path, begun.request))
    if decision.path is not first:
        begun.decision = decision
        begun.meter.fell_back(first, decision)
    return decision


async def _prompted(line: Line, meter: Meter, request: Request, decision: Decision) -> Prompt:
    tried = meter.tries(decision.path)
    prompt = await line.prompts.build(request, decision)
    tried.prompted(prompt)
    tried.ended = tried.sent  # it goes to no engine
    return prompt


def _routed(meter: Meter, outcome: str, failure: PointsmanError | None) -> Receipt:
    """Costs nothing, also where the prompt that was wanted could not be made."""
    return replace(meter.routed(), outcome=outcome_of(outcome), fault=fault_of(outcome, failure))
