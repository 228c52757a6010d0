"""The request's own span is told what was decided, and what came of it."""

from pointsman_servicekit.tracing.spans import Attribute, current_span

from pointsman_gateway.domain import CompletedAnswer, Decision, Receipt, Request, UndecidedReceipt
from pointsman_gateway.pipeline.ports import Journal
from pointsman_gateway.tracing.engines import operation_name, used


class TracedJournal:
    """Implements `Journal` around another."""

    def __init__(self, inner: Journal) -> None:
        self._inner = inner

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return self._inner.wants_answers(request, decision)

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        span = current_span()
        if span.is_recording():
            span.set_attributes(_decided(decision) | _came_of_it(request, receipt))
        self._inner.note(request, decision, receipt, answers)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        span = current_span()
        if span.is_recording():
            span.set_attributes({"pointsman.outcome": receipt.outcome, "pointsman.fault": receipt.fault})
        self._inner.note_undecided(receipt)


def _decided(decision: Decision) -> dict[str, Attribute]:
    return {
        "pointsman.decision_id": decision.id,
        "pointsman.task": decision.task,
        "pointsman.path": decision.path.name,
        "pointsman.kind": decision.path.kind.value,
        "pointsman.reason": decision.reason,
        "pointsman.confidence": decision.confidence,
        "pointsman.generation": decision.generation,
    }


def _came_of_it(request: Request, receipt: Receipt) -> dict[str, Attribute]:
    return {
        "gen_ai.operation.name": operation_name(request.operation),
        "gen_ai.provider.name": "pointsman",
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": receipt.model,
        **used(receipt.usage),
        "pointsman.outcome": receipt.outcome,
        "pointsman.cost_usd": receipt.cost_usd,
        "pointsman.cached": receipt.cached,
        "pointsman.escalated_from": receipt.escalated_from,
        **{f"pointsman.seconds.{phase}": seconds for phase, seconds in receipt.seconds.items()},
    }
