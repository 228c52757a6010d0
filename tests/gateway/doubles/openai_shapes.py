"""Validates answers strictly against the types of the installed `openai` package.

These types are generated from OpenAI's published API description, but the client parses leniently. Here values are not
converted, every required field must exist, enumerations must match, and unknown fields are errors.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, cast

import httpx
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

Shape = TypeVar("Shape")

REQUIRED_THOUGH_NULLABLE: Mapping[str, frozenset[str]] = {
    "chat_completion.Choice": frozenset({"logprobs"}),
    "chat_completion.ChoiceLogprobs": frozenset({"content", "refusal"}),
    "chat_completion_message.ChatCompletionMessage": frozenset({"content", "refusal"}),
    "chat_completion_token_logprob.ChatCompletionTokenLogprob": frozenset({"bytes"}),
    "chat_completion_token_logprob.TopLogprob": frozenset({"bytes"}),
    "chat_completion_chunk.Choice": frozenset({"finish_reason"}),
    "completion_choice.CompletionChoice": frozenset({"logprobs"}),
    "response.Response": frozenset({"error", "incomplete_details", "instructions", "metadata", "temperature", "top_p"}),
    "function_tool.FunctionTool": frozenset({"parameters", "strict"}),
}
"""Fields that the API description requires but that may be null; the generated types do not say that they are
required."""

OURS = frozenset({"pointsman", "store"})
"""Fields that this gateway adds. OpenAI's own responses contain `store` too, although their description does not."""

AN_ENGINES = frozenset({"reasoning", "reasoning_content", "stop_reason", "token_ids", "prompt_token_ids"})
"""Fields that vLLM adds and the gateway forwards."""


def chat_completion(data: Any) -> ChatCompletion:
    return cast(ChatCompletion, checked(ChatCompletion, data))


def chat_chunk(data: Any) -> ChatCompletionChunk:
    return cast(ChatCompletionChunk, checked(ChatCompletionChunk, data))


def completion(data: Any, *, chunk: bool = False) -> Completion:
    """Validates a chunk or an answer; a chunk may omit its finish reason, although one type describes both."""
    if chunk:
        data = {**data, "choices": [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in data["choices"]]}
    return cast(Completion, checked(Completion, data))


def embeddings(data: Any) -> CreateEmbeddingResponse:
    for one in data["data"]:  # the client requests base64 and decodes it, but the type allows only numbers
        if isinstance(one["embedding"], str):
            one["embedding"] = [0.0]
    return cast(CreateEmbeddingResponse, checked(CreateEmbeddingResponse, data))


def model(data: Any) -> Model:
    return cast(Model, checked(Model, data))


def response(data: Any) -> Response:
    return cast(Response, checked(Response, data))


def response_event(data: Any) -> Any:
    return checked(ResponseStreamEvent, data)


def error(answer: httpx.Response) -> dict[str, Any]:
    """Validates OpenAI's error object: four fields, two of which may be null."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    problem: dict[str, Any] = body["error"]
    assert set(problem) == {"message", "type", "param", "code"}
    assert isinstance(problem["message"], str)
    assert problem["message"]
    assert isinstance(problem["type"], str)
    assert isinstance(problem["param"], str | None)
    assert isinstance(problem["code"], str | None)
    return problem


def events(text: str) -> list[Any]:
    """Returns the data of a stream's events, without [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def checked(shape: Any, data: Any) -> Any:
    read = _adapter(shape).validate_json(json.dumps(data), strict=True)
    problems = list(_problems(read))
    assert not problems, problems
    return read


def _problems(value: Any) -> Iterator[str]:
    """Yields a message for each unknown field, and for each missing field that is required though nullable."""
    if isinstance(value, list):
        for one in value:
            yield from _problems(one)
    elif isinstance(value, BaseModel):
        name = f"{type(value).__module__.rpartition('.')[2]}.{type(value).__name__}"
        unknown = set(value.model_extra or ()) - OURS - AN_ENGINES
        required = REQUIRED_THOUGH_NULLABLE.get(name, frozenset())
        yield from (f"{name}.{field} is unknown" for field in unknown)
        yield from (f"{name}.{field} is missing" for field in required - value.model_fields_set)
        for field in value.model_fields_set - set(value.model_extra or ()):
            yield from _problems(getattr(value, field))
