"""The gateway's doors as one interface, so that one test can go through each of them."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import httpx
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.errors import FAMILIES, PointsmanError
from pointsman_servicekit.rich_status import from_rpc_error

Messages = Sequence[Mapping[str, Any]]

HTTP_FAMILIES = {family.http_status: family for family in reversed(FAMILIES)}


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_usd: float
    cost_parts_usd: Mapping[str, float]
    path: str
    kind: str
    sources: Sequence[str] = field(default_factory=tuple)
    decision_id: str = field(default="", compare=False)


class Door(Protocol):
    """A client of one door. What the gateway refuses is raised as the PointsmanError it was."""

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer: ...

    async def route(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Mapping[str, Any]: ...

    async def say(self, decision_id: str, **said: Any) -> tuple[str, bool]:
        """Feedback; where it was stored, and whether it was known already."""
        ...


class HttpDoor:
    """Plain answers."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer:
        body = _told(await self._client.post("/v1/chat/completions", json=_body(messages, model, parameters)))
        choice = body["choices"][0]
        return _http_answer(choice["message"]["content"], choice["finish_reason"], body)

    async def route(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Mapping[str, Any]:
        return _told(await self._client.post("/v1/route", json=_body(messages, model, parameters)))

    async def say(self, decision_id: str, **said: Any) -> tuple[str, bool]:
        answer = await self._client.post("/v1/feedback", json={"decision_id": decision_id, **said})
        told = _told(answer)
        assert answer.status_code == {"journal": 200, "spool": 202}[told["stored"]]
        return told["stored"], told["known_already"]


class HttpStreamDoor(HttpDoor):
    """Streamed answers."""

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer:
        parameters |= {"stream": True, "stream_options": {"include_usage": True}}
        text, finish_reason = "", ""
        async for event in self.events(_body(messages, model, parameters)):
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                finish_reason = choice["finish_reason"] or finish_reason
        return _http_answer(text, finish_reason, event)

    async def events(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events before [DONE]; asserts that it comes."""
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                _told(response)
            data = ""
            async for line in response.aiter_lines():
                if not line:
                    continue
                data = line.removeprefix("data: ")
                if data != "[DONE]":
                    event = json.loads(data)
                    _raise_error(event, PointsmanError, None)
                    yield event
            assert data == "[DONE]"


class GrpcDoor:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = gateway_pb2_grpc.GatewayStub(channel)

    async def ask(self, messages: Messages | str, model: str = "auto", **parameters: Any) -> Answer:
        request = pb.GenerateRequest(**_fields(messages, model, parameters))
        text, started, finished = "", None, None
        call = self._stub.Generate(request)
        try:
            async for response in call:
                match response.WhichOneof("event"):
                    case "started":
                        assert started is None
                        started = response.started
                    case "delta":
                        text += response.delta.content
                    case "finished":
                        finished = response.finished
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from error
        finally:
            call.cancel()
        assert started is not None
        assert finished is not None
        receipt = finished.receipt
        return Answer(
            text=text,
            finish_reason=finished.finish_reason,
            model=started.model,
            prompt_tokens=receipt.usage.prompt_tokens,
            completion_tokens=receipt.usage.completion_tokens,
            cached_tokens=receipt.usage.cached_tokens,
            cost_usd=receipt.cost_usd,
            cost_parts_usd=dict(receipt.cost_parts_usd),
            path=receipt.path,
            kind=started.decision.kind,
            sources=[source.document_id for source in receipt.sources],
            decision_id=started.decision.id,
        )

    async def say(self, decision_id: str, **said: Any) -> tuple[str, bool]:
        try:
            response = await self._stub.Feedback(pb.FeedbackRequest(decision_id=decision_id, **said))
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
        told: dict[str, Any] = {
            name: getattr(decision, name)
            for name in ("id", "task", "confidence", "path", "kind", "reason", "stage", "expected_cost_usd")
        }
        told |= {name: getattr(decision, name) for name in ("margin", "familiarity", "generation")}
        told["notes"] = list(decision.notes)
        told["considered"] = [{"path": c.path, "outcome": c.outcome, "reason": c.reason} for c in decision.considered]
        told["probabilities"] = {p.task: p.probability for p in decision.probabilities}
        if include_prompt:
            told["prompt"] = [{"role": m.role, "content": m.content} for m in response.prompt]
        return told


def _messages(messages: Messages | str) -> Messages:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _body(messages: Messages | str, model: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "messages": _messages(messages), **parameters}


def _fields(messages: Messages | str, model: str, parameters: dict[str, Any]) -> dict[str, Any]:
    sampling = pb.Sampling(
        **{name: parameters.pop(name) for name in ("max_tokens", "temperature", "top_p", "seed") if name in parameters},
        stop=parameters.pop("stop", ()),
    )
    beside = {name: parameters.pop(name) for name in ("metadata", "user") if name in parameters}
    if parameters:
        sampling.extra_json = json.dumps(parameters)
    return {
        "model": model,
        "messages": [pb.Message(**message) for message in _messages(messages)],
        "sampling": sampling,
        **beside,
    }


def _told(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    retry_after = response.headers.get("retry-after")
    _raise_error(body, HTTP_FAMILIES.get(response.status_code, PointsmanError), retry_after)
    assert response.is_success
    return body


def _raise_error(body: Mapping[str, Any], family: type[PointsmanError], retry_after: str | None) -> None:
    error = body.get("error")
    if error:
        waiting = float(retry_after) if retry_after else None
        raise family(error["message"], code=error["code"], param=error["param"], retry_after=waiting)


def _http_answer(text: str, finish_reason: str, last: Mapping[str, Any]) -> Answer:
    usage, receipt = last["usage"], last["pointsman"]
    return Answer(
        text=text,
        finish_reason=finish_reason,
        model=last["model"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        cost_usd=receipt["cost_usd"],
        cost_parts_usd=receipt["cost_parts_usd"],
        path=receipt["path"],
        kind=receipt["kind"],
        sources=[source["document_id"] for source in receipt["sources"]],
        decision_id=last["id"].removeprefix("chatcmpl-"),
    )
