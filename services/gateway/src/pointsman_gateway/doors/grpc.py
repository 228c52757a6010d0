"""The gRPC door: `pointsman.v1.Gateway` in front of the pipeline."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.domain import (
    Chunk,
    Decision,
    Event,
    Feedback,
    Finished,
    Message,
    Receipt,
    Request,
    Sampling,
    Started,
)
from pointsman_gateway.doors.feedback import FeedbackBox
from pointsman_gateway.pipeline import Pipeline

SERVICE = pb.DESCRIPTOR.services_by_name["Gateway"].full_name


class GatewayServicer(gateway_pb2_grpc.GatewayServicer):
    """Converts and delegates."""

    def __init__(self, pipeline: Pipeline, feedback: FeedbackBox, request_timeout: float) -> None:
        self._pipeline = pipeline
        self._feedback = feedback
        self._request_timeout = request_timeout

    async def Generate(  # the contract's name
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        events = self._pipeline.answer(_request(request, self._deadline(context)))
        async with aclosing(events):  # type: ignore[type-var]  # a generator's
            async for event in events:
                for response in _responses(event):
                    yield response

    async def Route(  # the contract's name
        self, request: pb.RouteRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RouteResponse:
        asked = _request(request, self._deadline(context))
        decision = await self._pipeline.decide(asked)
        response = pb.RouteResponse(decision=_decision(decision))
        if request.include_prompt:
            prompt = await self._pipeline.prompt(asked, decision)
            response.prompt.extend(pb.Message(role=m.role, content=m.content) for m in prompt.messages)
        return response

    async def Feedback(  # the contract's name
        self, request: pb.FeedbackRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FeedbackResponse:
        stored = await self._feedback.take(_said(request))
        return pb.FeedbackResponse(stored=stored.where, known_already=stored.known_already)

    def _deadline(self, context: grpc.aio.ServicerContext[Any, Any]) -> float:
        left = context.time_remaining()
        return asyncio.get_running_loop().time() + min(
            self._request_timeout, self._request_timeout if left is None else left
        )


def _request(request: pb.GenerateRequest | pb.RouteRequest, deadline: float) -> Request:
    return Request(
        model=request.model,
        messages=_messages(request.messages),
        sampling=_sampling(request.sampling),
        metadata=dict(request.metadata),
        user=request.user,
        deadline=deadline,
    )


def _said(request: pb.FeedbackRequest) -> Feedback:
    return Feedback(
        decision_id=request.decision_id,
        id=request.id,
        # A float of 32 bits on the wire: without its noise 0.8 is 0.8, as over HTTP.
        rating=round(request.rating, 6) if request.HasField("rating") else None,
        correction=request.correction,
        right_task=request.right_task,
        right_answer=request.right_answer,
    )


def _messages(messages: "RepeatedCompositeFieldContainer[pb.Message]") -> tuple[Message, ...]:
    return tuple(Message(m.role, m.content, {"name": m.name} if m.name else {}) for m in messages)


def _sampling(sampling: pb.Sampling) -> Sampling:
    given = {
        name: getattr(sampling, name)
        for name in ("max_tokens", "temperature", "top_p", "seed")
        if sampling.HasField(name)
    }
    _check(given, "max_tokens", 1, float("inf"))
    _check(given, "temperature", 0, 2)
    _check(given, "top_p", 1e-9, 1)
    if len(sampling.stop) > 4:
        raise InvalidArgument(f"'stop' has {len(sampling.stop)} entries; at most 4", code="bad_parameter", param="stop")
    return Sampling(**given, stop=tuple(sampling.stop), extra=_extra(sampling.extra_json))


def _check(given: dict[str, Any], name: str, least: float, most: float) -> None:
    if name in given and not least <= given[name] <= most:
        raise InvalidArgument(f"'{name}' is {given[name]}; {least:g} to {most:g}", code="bad_parameter", param=name)


def _extra(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        extra = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"'extra_json' is not JSON: {error}", code="bad_json", param="extra_json") from error
    if not isinstance(extra, dict):
        raise InvalidArgument("'extra_json' must be an object", code="bad_parameter", param="extra_json")
    return extra


def _responses(event: Event) -> Iterator[pb.GenerateResponse]:
    match event:
        case Started():
            started = pb.Started(decision=_decision(event.decision), model=event.model, cached=event.cached)
            yield pb.GenerateResponse(started=started)
        case tuple():
            for chunk in event:
                yield pb.GenerateResponse(delta=_delta(chunk))
        case Finished():
            finished = pb.Finished(finish_reason=event.finish_reason, receipt=_receipt(event.receipt))
            yield pb.GenerateResponse(finished=finished)


def _delta(chunk: Chunk) -> pb.Delta:
    extra = json.dumps(dict(chunk.extra)) if chunk.extra else ""
    return pb.Delta(index=chunk.index, content=chunk.content, extra_json=extra)


def _decision(decision: Decision) -> pb.Decision:
    return pb.Decision(
        id=decision.id,
        task=decision.task,
        confidence=decision.confidence,
        path=decision.path.name,
        kind=decision.path.kind.value,
        reason=decision.reason,
        considered=[pb.Considered(path=c.path, outcome=c.outcome, reason=c.reason) for c in decision.considered],
        expected_cost_usd=decision.expected_cost_usd,
        probabilities=[pb.TaskProbability(task=task, probability=p) for task, p in decision.probabilities],
        stage=decision.stage,
        margin=decision.margin,
        familiarity=decision.familiarity,
        notes=decision.notes,
        generation=decision.generation,
    )


def _receipt(receipt: Receipt) -> pb.Receipt:
    return pb.Receipt(
        usage=pb.Usage(
            prompt_tokens=receipt.usage.prompt_tokens,
            completion_tokens=receipt.usage.completion_tokens,
            cached_tokens=receipt.usage.cached_tokens,
        ),
        cost_usd=receipt.cost_usd,
        cost_parts_usd=receipt.cost_parts_usd,
        seconds=receipt.seconds,
        outcome=receipt.outcome,
        path=receipt.decision.path.name,
        sources=[pb.Source(document_id=p.document_id, title=p.title, score=p.score) for p in receipt.sources],
        escalated_from=receipt.escalated_from,
        cached=receipt.cached,
    )
