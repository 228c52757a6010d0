"""Clients of the gRPC API."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.gateway.doubles.answers import Answer, AnswerChoice, Gathered, Messages, as_messages, to_answer_choice


class GrpcStreamClient:
    """A client that requests streamed answers."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = gateway_pb2_grpc.GatewayStub(channel)

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer:
        request = pb.GenerateRequest(**_fields(messages, model, parameters))
        gathered, started, finished = Gathered(), None, None
        call = self._stub.GenerateStream(request)
        try:
            async for response in call:
                match response.WhichOneof("event"):
                    case "started":
                        assert started is None
                        started = response.started
                    case "delta":
                        delta = response.delta
                        extra = json.loads(delta.extra_json or "{}")
                        of_openai = {"content": delta.content, **extra.get("delta", {})}
                        gathered.add(delta.index, of_openai, delta.finish_reason, extra.get("logprobs"))
                    case "finished":
                        finished = response.finished
            headers = _metadata(await call.initial_metadata(), await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from error
        finally:
            call.cancel()
        assert started is not None
        assert finished is not None
        return _grpc_answer(started, gathered.choices(), finished.finish_reason, finished.receipt, headers)

    async def models(self) -> list[str]:
        try:
            return list((await self._stub.ListPaths(pb.ListPathsRequest())).models)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from error

    async def say(self, decision_id: str, **feedback: Any) -> tuple[str, bool]:
        try:
            response = await self._stub.Feedback(pb.FeedbackRequest(decision_id=decision_id, **feedback))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from error
        return response.stored, response.known_already

    async def route(
        self, messages: Messages | str, model: str = "auto", include_prompt: bool = False, **parameters: Any
    ) -> Mapping[str, Any]:
        request = pb.RouteRequest(**_fields(messages, model, parameters), include_prompt=include_prompt)
        try:
            response = await self._stub.Route(request)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from error
        decision = response.decision
        routed: dict[str, Any] = {
            name: getattr(decision, name)
            for name in ("id", "task", "confidence", "path", "kind", "reason", "stage", "expected_cost_usd")
        }
        routed |= {name: getattr(decision, name) for name in ("margin", "in_distribution_score", "revision")}
        routed["notes"] = list(decision.notes)
        routed["costs_usd"] = dict(response.costs_usd)
        routed["considered"] = [{"path": c.path, "outcome": c.outcome, "reason": c.reason} for c in decision.considered]
        routed["probabilities"] = {p.task: p.probability for p in decision.probabilities}
        if response.user_words:
            routed["user_words"] = response.user_words
        if include_prompt:
            routed["prompt"] = [{"role": m.role, "content": m.content} for m in response.prompt]
        return routed


class GrpcUnaryClient(GrpcStreamClient):
    """A client that requests unary answers."""

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer:
        call = self._stub.Generate(pb.GenerateRequest(**_fields(messages, model, parameters)))
        try:
            answer = await call
            headers = _metadata(await call.initial_metadata(), await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from error
        finally:
            call.cancel()
        choices = [_grpc_choice(choice) for choice in answer.choices]
        finish_reason = choices[0].finish_reason if choices else ""
        return _grpc_answer(answer.started, choices, finish_reason, answer.receipt, headers)


def _fields(messages: Messages | str, model: str, parameters: dict[str, Any]) -> dict[str, Any]:
    sampling = pb.Sampling(
        **{name: parameters.pop(name) for name in ("max_tokens", "temperature", "top_p", "seed") if name in parameters},
        stop=parameters.pop("stop", ()),
    )
    beside: dict[str, Any] = {name: parameters.pop(name) for name in ("metadata", "user") if name in parameters}
    if parameters:
        sampling.extra_json = json.dumps(parameters)
    return {
        "model": model,
        "messages": [_message(message) for message in as_messages(messages)],
        "sampling": sampling,
        **beside,
    }


def _message(fields: Mapping[str, Any]) -> pb.Message:
    own: dict[str, Any] = {name: fields[name] or "" for name in ("role", "content", "name") if name in fields}
    further = {name: value for name, value in fields.items() if name not in own}
    return pb.Message(**own, extra_json=json.dumps(further) if further else "")


def _grpc_choice(choice: pb.Choice) -> AnswerChoice:
    extra = json.loads(choice.extra_json or "{}")
    message = {"content": choice.content, **extra.get("message", {})}
    return to_answer_choice(choice.index, choice.finish_reason, message, extra.get("logprobs"))


def _grpc_answer(
    started: pb.Started,
    choices: Sequence[AnswerChoice],
    finish_reason: str,
    receipt: pb.Receipt,
    headers: Mapping[str, str],
) -> Answer:
    return Answer(
        text="".join(choice.content for choice in choices),
        finish_reason=finish_reason,
        model=started.model,
        prompt_tokens=receipt.usage.prompt_tokens,
        completion_tokens=receipt.usage.completion_tokens,
        cached_tokens=receipt.usage.cached_tokens,
        cost_usd=receipt.cost_usd,
        cost_parts_usd=dict(receipt.cost_parts_usd),
        path=receipt.path,
        kind=started.decision.kind,
        sources=[source.document_id for source in receipt.sources],
        choices=tuple(choices),
        default_max_tokens=receipt.default_max_tokens if receipt.HasField("default_max_tokens") else None,
        decision_id=started.decision.id,
        headers=headers,
    )


def _metadata(*sent: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    return {
        name.removeprefix("x-pointsman-"): str(value)
        for metadata in sent
        for name, value in metadata
        if name.startswith("x-pointsman-")
    }
