"""The stages of one generation of the configuration, as a request walks them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import decision_id

from pointsman_gateway.domain import ANONYMOUS, Caller, Decision, Operation, Prompt, Receipt, Request, UndecidedReceipt
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, ROUTED
from pointsman_gateway.faults import fault_of, outcome_of
from pointsman_gateway.metering.meter import Meter, Metering
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.ports import AnswerSink, Backend, Classifier, Journal, PromptBuilder, Tenancy
from pointsman_gateway.pipeline.run import RequestRun, record, reserve, with_known_model
from pointsman_gateway.pipeline.sinks import EventQueue
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Validation


@dataclass(frozen=True, slots=True)
class Line:
    """The stages of one generation of the configuration; a request walks one of them to its end."""

    generation: str
    resolve_model: Callable[[str], str]
    """What a request's `model` stands for, if it is an alias or unknown."""
    classification: Classifier
    router: Router
    prompts: PromptBuilder
    answers: Backend
    validation: Validation
    metering: Metering


@dataclass(frozen=True, slots=True)
class Routed:
    """The result of a request for a decision alone."""

    decision: Decision
    prompt: Prompt | None
    """None unless it was asked for."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    admission: Admission
    tenancy: Tenancy
    current: Callable[[], Line]
    journal: Journal

    def run(self, request: Request, sink: AnswerSink) -> RequestRun:
        """In the request's context; still to be started."""
        return RequestRun(self, request, sink)

    def answer(self, request: Request) -> EventQueue:
        """The answer's events, to iterate over: Started, Chunks, and Finished. Raises PointsmanError.

        `aclose` stops the engine's work.
        """
        events = EventQueue()
        events.run = run = self.run(request, events)
        run.start()
        return events

    async def decide(self, request: Request, with_prompt: bool = False) -> Routed:
        """The decision alone, and the prompt that would be sent if it is asked for. Raises PointsmanError."""
        line = self.current()
        request = with_known_model(request, line.resolve_model)
        meter = line.metering.start(replace(request, operation="route"))
        outcome, reservation, failure, decision = CANCELLED, None, None, None
        try:
            async with self.admission.admitted(request):
                reservation = await reserve(self.tenancy, request, 0)
                meter.mark_admitted()
                decision = line.router.decide(request, await line.classification.label(request))
                meter.set_decision(decision)
                decision_id.set(decision.id)
                prompt = await _prompt(line, meter, request, decision) if with_prompt else None
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
                failure.receipt, failure.__traceback__ = receipt, None
            if reservation is not None:
                reservation.settle(receipt.usage, receipt.cost_usd, receipt.outcome)
            record(self.journal, request, receipt)
            failure = None  # its traceback has this frame, which would hold it
        return Routed(decision, prompt)

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float]:
        """Dollars by path, of those that were considered: what the request is likely to cost there."""
        return self.current().router.costs(request, decision)

    def turned_away(
        self, operation: Operation, error: PointsmanError | None, arrived: float = 0.0, caller: Caller = ANONYMOUS
    ) -> None:
        """Writes the receipt of a request that a server has refused before its run; or, without an error, whose client
        has gone by then."""
        meter = self.current().metering.start(Request("", (), caller=caller, arrived_at=arrived, operation=operation))
        receipt = meter.finish(error.code if error else CANCELLED, error)
        assert isinstance(receipt, UndecidedReceipt)  # nothing has decided
        self.journal.note_undecided(receipt)


async def _prompt(line: Line, meter: Meter, request: Request, decision: Decision) -> Prompt:
    tried = meter.start_attempt(decision.path)
    prompt = await line.prompts.build(request, decision)
    tried.set_prompt(prompt)
    tried.ended = tried.sent  # it goes to no engine
    return prompt


def _routed(meter: Meter, outcome: str, failure: PointsmanError | None) -> Receipt:
    """Costs nothing, even if the prompt that was asked for could not be made."""
    return replace(meter.finish_route(), outcome=outcome_of(outcome), fault=fault_of(outcome, failure))
