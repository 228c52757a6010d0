"""The gateway's gRPC door, asked."""

from collections.abc import AsyncIterator

from pointsman.v1 import gateway_pb2

from pointsman_cli import stubs
from pointsman_cli.ask.answer import Considered, Decision, Ending, Event, Question, Text
from pointsman_cli.channels import open_channel
from pointsman_cli.options import bearer

_SECONDS = 130.0


async def ask(address: str, question: Question, key: str = "") -> AsyncIterator[Event]:
    """Raises a `PointsmanError` with the gateway's own message where it refuses, or where the stream breaks off."""
    request = gateway_pb2.GenerateRequest(
        model=question.model, messages=[gateway_pb2.Message(role="user", content=question.text)]
    )
    async with open_channel(address) as channel:
        with stubs.speaking_to("gateway"):
            async for event in stubs.gateway(channel).GenerateStream(
                request, timeout=_SECONDS, metadata=tuple(bearer(key).items())
            ):
                match event.WhichOneof("event"):
                    case "started":
                        yield _decision(event.started.decision)
                    case "delta":
                        yield Text(event.delta.content)
                    case "finished":
                        yield _ending(event.finished.receipt)


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
        considered=tuple(Considered(entry.path, entry.outcome, entry.reason) for entry in decision.considered),
        expected_cost_usd=decision.expected_cost_usd,
        margin=decision.margin,
        familiarity=decision.familiarity,
        notes=tuple(decision.notes),
        generation=decision.generation,
    )


def _ending(receipt: gateway_pb2.Receipt) -> Ending:
    return Ending(
        prompt_tokens=receipt.usage.prompt_tokens,
        completion_tokens=receipt.usage.completion_tokens,
        cost_usd=receipt.cost_usd,
        path=receipt.path,
        sources=tuple(source.title or source.document_id for source in receipt.sources),
        escalated_from=receipt.escalated_from,
    )
