"""Calls the gateway over gRPC."""

from collections.abc import AsyncIterator

from pointsman.v1 import gateway_pb2

from pointsman_cli.gateway.answers import AnswerEnd, ConsideredPath, Decision, Event, Question, TextChunk
from pointsman_cli.grpc_clients import gateway_stub, open_channel, service_errors
from pointsman_cli.options import bearer

_TIMEOUT_SECONDS = 130.0


async def ask_grpc(address: str, question: Question, key: str = "") -> AsyncIterator[Event]:
    """Yields the events of an answer; raises the PointsmanError that the gateway answers or that ends the stream."""
    request = gateway_pb2.GenerateRequest(
        model=question.model, messages=[gateway_pb2.Message(role="user", content=question.text)]
    )
    async with open_channel(address) as channel:
        with service_errors("gateway"):
            async for event in gateway_stub(channel).GenerateStream(
                request, timeout=_TIMEOUT_SECONDS, metadata=tuple(bearer(key).items())
            ):
                match event.WhichOneof("event"):
                    case "started":
                        yield _decision(event.started.decision)
                    case "delta":
                        yield TextChunk(event.delta.content)
                    case "finished":
                        yield _answer_end(event.finished.receipt)


def _decision(decision: gateway_pb2.Decision) -> Decision:
    return Decision(
        id=decision.id,
        task=decision.task,
        confidence=decision.confidence,
        path=decision.path,
        kind=decision.kind,
        reason=decision.reason,
        stage=decision.stage,
        probabilities={entry.task: entry.probability for entry in decision.probabilities},
        considered=tuple(ConsideredPath(entry.path, entry.outcome, entry.reason) for entry in decision.considered),
        expected_cost_usd=decision.expected_cost_usd,
        margin=decision.margin,
        familiarity=decision.familiarity,
        notes=tuple(decision.notes),
        generation=decision.generation,
    )


def _answer_end(receipt: gateway_pb2.Receipt) -> AnswerEnd:
    return AnswerEnd(
        prompt_tokens=receipt.usage.prompt_tokens,
        completion_tokens=receipt.usage.completion_tokens,
        cost_usd=receipt.cost_usd,
        path=receipt.path,
        sources=tuple(source.title or source.document_id for source in receipt.sources),
        escalated_from=receipt.escalated_from,
    )
