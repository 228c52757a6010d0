"""Every field in the messages, tools and formats of OpenAI's and Anthropic's SDKs reaches the engine, is named in the
decision's notes, or is refused.

Each type of the SDKs is sent with and without each of its fields. Either the engine's request or the notes must differ,
so the test fails if a new version of an SDK adds a field that no code knows.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anthropic.types as messages_types
import msgspec
import pytest
from anthropic.types import beta as beta_types
from anthropic.types.beta.beta_content_block_param import BetaContentBlockParam
from anthropic.types.beta.beta_tool_union_param import BetaToolUnionParam
from openai.types import chat as chat_types
from openai.types import responses as response_types
from openai.types import shared_params
from openai.types.chat.completion_create_params import ResponseFormat
from openai.types.responses.response_function_call_output_item_param import ResponseFunctionCallOutputItemParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.tool_param import ToolParam
from pointsman_gateway import domain
from pointsman_gateway.config.providers import Endpoint, EngineApi, preset_of
from pointsman_gateway.domain import Request
from pointsman_gateway.engines.dialects.anthropic.messages import to_messages_body
from pointsman_gateway.engines.dialects.openai.completions import openai_body
from pointsman_gateway.engines.dialects.sent_fields import SentFields
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.http.dialects.anthropic.messages import MessagesBody
from pointsman_gateway.http.dialects.openai.chat import ChatBody
from pointsman_gateway.http.dialects.openai.response_conversion import to_chat_tools
from pointsman_gateway.http.dialects.openai.responses import ResponsesBody
from pointsman_gateway.routing.left_out import LeftOutFields, ModelFields
from pointsman_servicekit.errors import InvalidArgument
from pydantic import ValidationError

from tests.gateway.doubles.sdk_documentation import documented_as_not_sent
from tests.gateway.doubles.sdk_types import fields_of, is_constant, members, name_of, sample, value_of

BETAS = preset_of("anthropic").betas
Read = Callable[[Any], Request]
"""A function that puts a sample into the body of a request, and reads the body."""
USER = {"role": "user", "content": "Hello"}
CALL = {"type": "function", "id": "c", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"type": "function", "function": {"name": "f"}}


def of_chat(*messages: Any, **fields: Any) -> Request:
    return ChatBody.model_validate({"model": "m", "messages": messages or [USER], **fields}).to_request(0.0)


def of_responses(*items: Any, **fields: Any) -> Request:
    body = ResponsesBody.model_validate({"model": "m", "input": [*items, USER], **fields})
    return body.to_request(0.0, to_chat_tools(body.tools))


def of_messages(*blocks: Any, role: str = "user", **fields: Any) -> Request:
    messages = [{"role": role, "content": [*blocks]}] if blocks else [USER]
    return MessagesBody.model_validate({"model": "m", "max_tokens": 5, "messages": messages, **fields}).to_request(0.0)


def block(given: Any) -> Request:
    is_answer = given.get("type") in ("thinking", "redacted_thinking", "tool_use")
    return of_messages(given, role="assistant" if is_answer else "user")


def in_result(given: Any) -> Request:
    return of_messages({"type": "tool_result", "tool_use_id": "c", "content": [given]})


def in_document(given: Any) -> Request:
    return of_messages({"type": "document", "source": {"type": "content", "content": [given]}})


def source(kind: str, given: Any) -> Request:
    return of_messages({"type": kind, "source": given})


def part(role: str, given: Any) -> Request:
    return of_chat({"role": role, "content": [given, {"type": "text", "text": "x"}]})


def item_part(role: str, given: Any) -> Request:
    return of_responses({"type": "message", "role": role, "content": [given]})


def output_part(given: Any) -> Request:
    return of_responses({"type": "function_call_output", "call_id": "c", "output": [given]})


def media_part(kind: str, given: Any) -> Request:
    return part("user", {"type": kind, kind: given})


def function(given: Any) -> Request:
    return of_chat(tools=[{"type": "function", "function": given}])


def json_schema(given: Any) -> Request:
    return of_chat(response_format={"type": "json_schema", "json_schema": given})


def calling(given: Any) -> Request:
    return of_chat({"role": "assistant", "content": "x", "tool_calls": [given]})


def in_fields(read: Callable[..., Request], **fields: Callable[[Any], Any]) -> Read:
    """Returns a function that puts a sample into these fields of a body."""
    return lambda given: read(**{name: value(given) for name, value in fields.items()})


def itself(given: Any) -> Any:
    return given


def listed(given: Any) -> list[Any]:
    return [given]


def field_of(holder: Any, name: str) -> Any:
    return fields_of(holder)[name]


WHERE: Mapping[str, tuple[Any, Read]] = {
    **{
        f"{role} message": (getattr(chat_types, f"ChatCompletion{role}MessageParam"), of_chat)
        for role in ("User", "Assistant", "Tool", "System", "Developer", "Function")
    },
    "part": (chat_types.ChatCompletionContentPartParam, partial(part, "user")),
    "assistant's part": (chat_types.ChatCompletionContentPartRefusalParam, partial(part, "assistant")),
    "image_url": (
        field_of(chat_types.ChatCompletionContentPartImageParam, "image_url"),
        partial(media_part, "image_url"),
    ),
    "input_audio": (
        field_of(chat_types.ChatCompletionContentPartInputAudioParam, "input_audio"),
        partial(media_part, "input_audio"),
    ),
    "file": (field_of(chat_types.chat_completion_content_part_param.File, "file"), partial(media_part, "file")),
    "tool call": (chat_types.ChatCompletionMessageToolCallUnionParam, calling),
    "tool": (chat_types.ChatCompletionToolUnionParam, in_fields(of_chat, tools=listed)),
    "function": (shared_params.FunctionDefinition, function),
    "response_format": (ResponseFormat, in_fields(of_chat, response_format=itself)),
    "json_schema": (field_of(shared_params.ResponseFormatJSONSchema, "json_schema"), json_schema),
    "tool_choice": (
        chat_types.ChatCompletionToolChoiceOptionParam,
        in_fields(of_chat, tools=lambda _: [FUNCTION], tool_choice=itself),
    ),
    "stream_options": (chat_types.ChatCompletionStreamOptionsParam, in_fields(of_chat, stream_options=itself)),
    "item": (ResponseInputItemParam, of_responses),
    "item's part": (response_types.ResponseInputContentParam, partial(item_part, "user")),
    "answer's text": (response_types.ResponseOutputTextParam, partial(item_part, "assistant")),
    "answer's refusal": (response_types.ResponseOutputRefusalParam, partial(item_part, "assistant")),
    "output's part": (ResponseFunctionCallOutputItemParam, output_part),
    "tool of a response": (ToolParam, in_fields(of_responses, tools=listed)),
    "text.format": (
        response_types.ResponseFormatTextConfigParam,
        in_fields(of_responses, text=lambda one: {"format": one}),
    ),
    "text": (response_types.ResponseTextConfigParam, in_fields(of_responses, text=itself)),
    "reasoning": (shared_params.Reasoning, in_fields(of_responses, reasoning=itself)),
    "tool of messages": (messages_types.ToolUnionParam, in_fields(of_messages, tools=listed)),
    "beta tool": (BetaToolUnionParam, in_fields(of_messages, tools=listed)),
    "tool_choice of messages": (
        messages_types.ToolChoiceParam,
        in_fields(of_messages, tools=lambda _: [{"name": "the name", "input_schema": {}}], tool_choice=itself),
    ),
    "thinking": (beta_types.BetaThinkingConfigParam, in_fields(of_messages, thinking=itself)),
    "output_config": (beta_types.BetaOutputConfigParam, in_fields(of_messages, output_config=itself)),
    "block": (messages_types.ContentBlockParam, block),
    "beta block": (BetaContentBlockParam, block),
    "block in a result": (messages_types.ContentBlockParam, in_result),
    "beta block in a result": (BetaContentBlockParam, in_result),
    "block in a document": (messages_types.ContentBlockParam, in_document),
    "image's source": (field_of(messages_types.ImageBlockParam, "source"), partial(source, "image")),
    "document's source": (field_of(messages_types.DocumentBlockParam, "source"), partial(source, "document")),
    "beta image's source": (field_of(beta_types.BetaImageBlockParam, "source"), partial(source, "image")),
    "beta document's source": (
        field_of(beta_types.BetaRequestDocumentBlockParam, "source"),
        partial(source, "document"),
    ),
}
"""The SDKs' types, each with the function that puts a sample of it into its place in a body."""
WHOLE = {
    "Anthropic's own tools", "OpenAI's own tools", "reasoning items", "redacted_thinking of blocks", "thinking",
    "output_config",
}  # fmt: skip
"""Notes that stand for whole objects, of which no field is sent."""
EQUAL = {("json_schema", "strict"), ("text.format", "strict"), ("stream_options", "include_usage")}
"""Fields without an effect: Anthropic's formats are always strict, and the usage is requested anyway."""


SENT, READ, REFUSED = "sent", "read", "refused"
DIALECTS = ("openai", "anthropic")
PROSE = {"Anthropic's own tools", "OpenAI's own tools"}
REFUSED_TYPES = re.compile(
    "AdditionalTools|Advisor|ApplyPatch|CodeExecution|CodeInterpreter|Compaction|Computer|ContainerUpload|Fallback|"
    "FileDocument|FileImage|FileSearch|ImageGeneration|ItemReference|MCP|Mcp|Program|ServerToolUse|Shell|ToolAddition|"
    "ToolRemoval|ToolSearch|WebFetch|WebSearch"
)
"""Types that are refused, because the gateway or the provider would have to run or store something for them."""
INNER = {"block in a result", "beta block in a result", "block in a document"}
"""Places in which further types are refused."""


def what_goes_out(request: Request, dialect: str) -> tuple[bytes, set[str]]:
    """Returns the body that an engine gets, and the names in the decision's notes. Raises InvalidArgument if the
    request is rejected.
    """
    sent = EngineRequest(
        "e", "http://e", "m", request.messages, request.sampling, 0.0, EngineApi({}, dialect=dialect, betas=BETAS)
    )
    body = (to_messages_body if dialect == "anthropic" else openai_body)(sent, Endpoint("/"))
    fields = LeftOutFields({"m": ModelFields(formats=(SentFields(dialect, BETAS),))})
    notes = ", ".join(fields.notes(request, domain.Path("m", "m"))).removeprefix("left out: ")
    return msgspec.json.encode(body), set(notes.split(", ")) - {""}


def outcomes(kind: Any, read: Read, dialect: str) -> Mapping[str, str]:
    """Returns the outcome of each field of a type, except for fields that have only one possible value."""
    return {name: outcome(kind, read, name, dialect) for name, hint in fields_of(kind).items() if not is_constant(hint)}


def outcome(kind: Any, read: Read, name: str, dialect: str) -> str:
    """Returns the outcome of one field, or the names in the notes; empty if the field is lost."""
    with_field = sample(kind, **{name: value_of(fields_of(kind)[name], name)})
    try:
        body, notes = what_goes_out(read(with_field), dialect)
    except (InvalidArgument, ValidationError):
        return REFUSED
    try:
        body_without, notes_without = what_goes_out(read({n: v for n, v in with_field.items() if n != name}), dialect)
    except (InvalidArgument, ValidationError):
        return READ  # it is required
    if body != body_without:
        return SENT
    return ", ".join(sorted(notes - notes_without or notes & WHOLE))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("where", WHERE)
def test_every_field_is_sent_or_named_in_the_notes_or_refused(where: str, dialect: str) -> None:
    union, read = WHERE[where]
    lost = [
        f"{name_of(kind)}.{name}"
        for kind in members(union)
        for name, result in outcomes(kind, read, dialect).items()
        if not result and (where, name) not in EQUAL
    ]
    assert lost == []


@pytest.mark.parametrize("where", sorted(WHERE.keys() - INNER))
def test_no_type_is_refused_unless_it_is_listed(where: str) -> None:
    """Otherwise all fields of a type would count as refused, even if only the test's sample is wrong."""
    union, read = WHERE[where]
    for kind in members(union):
        if not REFUSED_TYPES.search(name_of(kind)):
            what_goes_out(read(sample(kind)), "openai")


def test_what_the_notes_name_is_in_the_table_of_the_documentation() -> None:
    named = {
        name
        for union, read in WHERE.values()
        for kind in members(union)
        for dialect in DIALECTS
        for result in outcomes(kind, read, dialect).values()
        for name in result.split(", ")
    }
    assert sorted(named - {SENT, READ, REFUSED, "", *PROSE} - documented_as_not_sent()) == []
