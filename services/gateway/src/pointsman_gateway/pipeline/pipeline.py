"""The entry to the request path for every server, and the stages that a request passes through."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import decision_id

from pointsman_gateway.domain import ANONYMOUS, Caller, Decision, Operation, Prompt, Receipt, Request, UndecidedReceipt
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, ROUTED, fault_of, outcome_of
from pointsman_gateway.metering.meter import Meter, Metering
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.ports import AnswerSink, Backend, Classifier, PromptBuilder, RequestLog, Tenancy
from pointsman_gateway.pipeline.run import RequestRun, record, reserve, with_known_model
from pointsman_gateway.pipeline.sinks import EventQueue
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Validation


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one configuration; a request uses the same ones from start to end."""

    revision: str
    """The configuration's digest."""
    resolve_model: Callable[[str], str]
    """Returns what a request's `model` stands for, if it is an alias or unknown."""
    classification: Classifier
    router: Router
    prompts: PromptBuilder
    backend: Backend
    validation: Validation
    metering: Metering


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision without an answer."""

    decision: Decision
    prompt: Prompt | None
    """None unless it was requested."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    admission: Admission
    tenancy: Tenancy
    current: Callable[[], Stages]
    request_log: RequestLog

    def run(self, request: Request, sink: AnswerSink) -> RequestRun:
        """A run that is not started. Call it in the request's context, because the run reads the request's id there."""
        return RequestRun(self, request, sink)

    def answer(self, request: Request) -> EventQueue:
        """Starts a run, and returns its events to iterate over: Started, Chunks, and Finished. Raises PointsmanError.

        `aclose` stops the engine's work.
        """
        events = EventQueue()
        events.run = run = self.run(request, events)
        run.start()
        return events

    async def decide(self, request: Request, with_prompt: bool = False) -> Routed:
        """Only decides; `with_prompt` also builds the prompt that would be sent. Raises PointsmanError."""
        stages = self.current()
        request = with_known_model(request, stages.resolve_model)
        meter = stages.metering.start(replace(request, operation="route"))
        outcome, reservation, failure, decision = CANCELLED, None, None, None
        try:
            async with self.admission.admitted(request):
                reservation = await reserve(self.tenancy, request, 0)
                meter.mark_admitted()
                decision = stages.router.decide(request, await stages.classification.label(request))
                meter.set_decision(decision)
                decision_id.set(decision.id)
                prompt = await _prompt(stages, meter, request, decision) if with_prompt else None
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
            record(self.request_log, request, receipt)
            failure = None  # breaks the reference cycle between the error's traceback and this frame
        return Routed(decision, prompt)

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float | None]:
        """The expected dollars of the request on each path that was considered."""
        return self.current().router.costs(request, decision)

    def turned_away(
        self, operation: Operation, error: PointsmanError | None, arrived: float = 0.0, caller: Caller = ANONYMOUS
    ) -> None:
        """Writes the receipt of a request that ended before its run: a server rejected it, or its client disconnected
        (`error` is None)."""
        meter = self.current().metering.start(Request("", (), caller=caller, arrived_at=arrived, operation=operation))
        receipt = meter.finish(error.code if error else CANCELLED, error)
        assert isinstance(receipt, UndecidedReceipt)  # nothing has decided
        self.request_log.note_undecided(receipt)


async def _prompt(stages: Stages, meter: Meter, request: Request, decision: Decision) -> Prompt:
    path_attempt = meter.start_attempt(decision.path)
    prompt = await stages.prompts.build(request, decision)
    path_attempt.set_prompt(prompt)
    path_attempt.ended = path_attempt.sent  # no engine is called
    return prompt


def _routed(meter: Meter, outcome: str, failure: PointsmanError | None) -> Receipt:
    """The receipt of a decision without an answer. It costs nothing, even if building the prompt failed."""
    return replace(meter.finish_route(), outcome=outcome_of(outcome), fault=fault_of(outcome, failure))
