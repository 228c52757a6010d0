"""gRPC with the published contract's Python stubs."""

import json
import os
from collections.abc import Iterable
from typing import Any

import grpc
from checks import (
    BASE_MODEL,
    CITIES,
    GRPC,
    OPENAI_FORMAT,
    OPENAI_TOOL,
    PLAIN,
    QUESTION,
    REFLECTION,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    WEATHER_QUESTION,
    is_person,
    parallel_calls,
    run,
    weather_call,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc

SECONDS = 300


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def request(
    messages: Iterable[dict[str, Any]], model: str = BASE_MODEL, max_tokens: int | None = None, **extra: Any
) -> pb.GenerateRequest:
    sampling = pb.Sampling(temperature=0, max_tokens=max_tokens, extra_json=json.dumps(extra) if extra else "")
    return pb.GenerateRequest(model=model, messages=map(to_message, messages), sampling=sampling)


def to_message(message: dict[str, Any]) -> pb.Message:
    extra = {name: value for name, value in message.items() if name not in ("role", "content")}
    extra_json = json.dumps(extra) if extra else ""
    return pb.Message(role=message["role"], content=message["content"], extra_json=extra_json)


def generate(asked: pb.GenerateRequest) -> pb.GenerateResponse:
    with grpc.insecure_channel(os.environ["POINTSMAN_GRPC"]) as channel:
        return gateway_pb2_grpc.GatewayStub(channel).Generate(asked, timeout=SECONDS)


def stream(asked: pb.GenerateRequest) -> list[pb.GenerateStreamResponse]:
    with grpc.insecure_channel(os.environ["POINTSMAN_GRPC"]) as channel:
        return list(gateway_pb2_grpc.GatewayStub(channel).GenerateStream(asked, timeout=SECONDS))


def calls_of(answer: pb.GenerateResponse) -> list[Any]:
    message = json.loads(answer.choices[0].extra_json or "{}").get("message", {})
    return [call["function"] for call in message.get("tool_calls", ())]


def assert_weather(calls: list[Any], cities: tuple[str, ...] = ()) -> None:
    called = [(call["name"], json.loads(call["arguments"])["city"]) for call in calls]
    assert called, "no call"
    assert all(name == "get_weather" and city in CITIES for name, city in called), called
    assert not cities or tuple(city for _, city in called) == cities, called


def plain(url: str) -> None:
    answer = generate(request([user(QUESTION)], max_tokens=12))
    assert "Paris" in answer.choices[0].content, answer


def streaming(url: str) -> None:
    events = stream(request([user(QUESTION)], max_tokens=12))
    assert "Paris" in "".join(event.delta.content for event in events), events
    assert events[-1].WhichOneof("event") == "finished", events


def structured(url: str) -> None:
    answer = generate(request([user(SENTENCE)], "auto", response_format=OPENAI_FORMAT))
    assert answer.choices[0].finish_reason == "stop", answer
    assert is_person(json.loads(answer.choices[0].content)), answer


def tools(url: str) -> None:
    question = [user(WEATHER_QUESTION)]
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert_weather(calls_of(generate(request(question, tools=[OPENAI_TOOL], tool_choice=named))))
    required = {"tool_choice": "required", "parallel_tool_calls": False}
    assert_weather(calls_of(generate(request(question, max_tokens=100, tools=[OPENAI_TOOL], **required))))
    assert_weather(calls_of(generate(request(parallel_calls(), max_tokens=100, tools=[OPENAI_TOOL]))), CITIES)
    assert not calls_of(generate(request(question, max_tokens=12, tools=[OPENAI_TOOL], tool_choice="none")))


def streamed_tools(url: str) -> None:
    calls: dict[int, dict[str, str]] = {}
    for event in stream(request(parallel_calls(), max_tokens=100, tools=[OPENAI_TOOL])):
        delta = json.loads(event.delta.extra_json or "{}").get("delta", {})
        for part in delta.get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"name": "", "arguments": ""})
            for name, value in part.get("function", {}).items():
                call[name] += value or ""
    assert_weather([calls[index] for index in sorted(calls)], CITIES)


def tool_results(url: str) -> None:
    later = [
        user(WEATHER_QUESTION),
        {"role": "assistant", "content": "", "tool_calls": [weather_call("call_1", "Paris")]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]
    before = generate(request(later[:1], max_tokens=1, tools=[OPENAI_TOOL]))
    after = generate(request(later, max_tokens=12, tools=[OPENAI_TOOL]))
    assert after.receipt.usage.prompt_tokens > before.receipt.usage.prompt_tokens + 20, (before, after)


def reflection(url: str) -> None:
    """Calls a method without generated stubs, as grpcurl does: with the descriptors that the gateway serves."""
    with grpc.insecure_channel(os.environ["POINTSMAN_GRPC"]) as channel:
        descriptors = ProtoReflectionDescriptorDatabase(channel)
        assert "pointsman.v1.Gateway" in descriptors.get_services()
        service = DescriptorPool(descriptors).FindServiceByName("pointsman.v1.Gateway")
        method = service.methods_by_name["Generate"]
        answer = GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/pointsman.v1.Gateway/Generate", GetMessageClass(method.input_type).SerializeToString, answer.FromString
        )
        asked = request([user(QUESTION)], max_tokens=12).SerializeToString()
        reply = call(GetMessageClass(method.input_type).FromString(asked), timeout=SECONDS)
    assert "Paris" in reply.choices[0].content, reply


if __name__ == "__main__":
    run(
        {
            GRPC: {
                PLAIN: plain,
                STREAMING: streaming,
                TOOLS: tools,
                STREAMED_TOOLS: streamed_tools,
                TOOL_RESULTS: tool_results,
                STRUCTURED: structured,
            },
            REFLECTION: {PLAIN: reflection},
        }
    )
