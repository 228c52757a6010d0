"""Every field of a request of OpenAI's and Anthropic's SDKs is accounted for: read, sent to the engine, documented as
not sent, or refused. `test_nested_sdk_fields` is about the fields in messages, tools and formats.

The tables below state the outcome of each field. The test fails if a new version of an SDK adds a field, because no
table has it.
"""

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase as BetaMessageParams
from anthropic.types.message_create_params import MessageCreateParamsBase as MessageParams
from openai.types import chat as chat_types
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.embedding_create_params import EmbeddingCreateParams as EmbeddingParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase as ResponseParams
from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.providers import (
    MESSAGE_FIELDS,
    Endpoint,
    EngineApi,
    RequestFields,
    request_fields,
)
from pointsman_gateway.domain import Message, Sampling
from pointsman_gateway.engines.dialects.anthropic.messages import beta_header, to_messages_body
from pointsman_gateway.engines.dialects.openai.completions import openai_body
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.http.dialects.anthropic.messages import IGNORED_FIELDS, REJECTED_FIELDS, MessagesBody
from pointsman_gateway.http.dialects.anthropic.native import PASSED_FIELDS
from pointsman_gateway.http.dialects.openai.chat import ChatBody
from pointsman_gateway.http.dialects.openai.completions import CompletionBody
from pointsman_gateway.http.dialects.openai.embeddings import EmbeddingBody
from pointsman_gateway.http.dialects.openai.responses import LEFT_OUT, REJECTED_PARAMETERS, ResponsesBody
from pointsman_servicekit.errors import InvalidArgument

from tests.gateway.doubles.sdk_documentation import documented_as_not_sent

SOMETIMES_SENT = {"service_tier"}
"""Fields that are sent or not depending on the provider and the value; the documentation says so next to its table."""
TOOL = {"type": "function", "function": {"name": "f"}}
READ, SENT, NOT_SENT, REFUSED = "read", "sent", "not sent", "refused"
Outcomes = Mapping[str, str]
BETAS = ["interleaved-thinking-2025-05-14"]


def fields_of(params: Any) -> set[str]:
    return set(typing.get_type_hints(params))


def accepted(provider: str) -> RequestFields:
    return EngineConfig(model="m", provider=provider, url="http://127.0.0.1:1").accepted_fields


VALUES: Mapping[str, Any] = {
    "service_tier": "default", "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    "tools": [TOOL], "tool_choice": "required", "n": 2, "parallel_tool_calls": False, "reasoning_effort": "low",
}  # fmt: skip


def outcome(name: str, fields: RequestFields, dialect: str = "openai") -> str:
    """Returns the outcome of a field of a request. It counts as sent if it changes the body that an engine gets."""
    value = VALUES.get(name, "x")
    try:
        with_field = fields.select({"tools": [TOOL], name: value})
    except InvalidArgument:
        return REFUSED
    without = fields.select({} if name == "tools" else {"tools": [TOOL]})
    return SENT if body_of(with_field, dialect) != body_of(without, dialect) else NOT_SENT


def body_of(extra: Mapping[str, Any], dialect: str) -> Mapping[str, Any]:
    request = EngineRequest(
        "e", "http://e", "m", [Message("user", "Hello")], Sampling(extra=extra), 0.0, EngineApi({}, dialect=dialect)
    )
    return (to_messages_body if dialect == "anthropic" else openai_body)(request, Endpoint("/"))


def outcomes(**by_outcome: str) -> Outcomes:
    """Returns a table of fields by their outcome; the arguments are written as `read="a b", sent="c"`."""
    return {name: result.replace("_", " ") for result, names in by_outcome.items() for name in names.split()}


# -- OpenAI's

CHAT_READ = "messages model max_tokens max_completion_tokens temperature top_p seed stop stream_options user metadata"
CHAT: Mapping[str, Outcomes] = {
    "openai": outcomes(
        read=CHAT_READ,
        sent="frequency_penalty presence_penalty logit_bias logprobs top_logprobs n tools tool_choice "
        "parallel_tool_calls functions function_call response_format verbosity prediction reasoning_effort modalities "
        "prompt_cache_key safety_identifier service_tier store prompt_cache_retention prompt_cache_options",
        refused="audio moderation web_search_options",
    ),
    "anthropic": outcomes(
        read=CHAT_READ,
        sent="tools tool_choice parallel_tool_calls response_format reasoning_effort service_tier",
        not_sent="store prompt_cache_retention prompt_cache_options verbosity modalities prediction prompt_cache_key "
        "safety_identifier",
        refused="frequency_penalty presence_penalty logit_bias logprobs top_logprobs n functions function_call audio "
        "moderation web_search_options",
    ),
    "vllm": outcomes(
        read=CHAT_READ,
        sent="frequency_penalty presence_penalty logit_bias logprobs top_logprobs n tools tool_choice "
        "parallel_tool_calls functions function_call response_format reasoning_effort",
        not_sent="store service_tier prompt_cache_retention prompt_cache_options verbosity modalities prediction "
        "prompt_cache_key safety_identifier",
        refused="audio moderation web_search_options",
    ),
}


def of_chat(name: str, provider: str) -> str:
    dialect: str = "anthropic" if provider == "anthropic" else "openai"
    return READ if name in ChatBody.model_fields else outcome(name, accepted(provider), dialect)


@pytest.mark.parametrize("provider", CHAT)
def test_fields_of_chat_completions(provider: str) -> None:
    assert {name: of_chat(name, provider) for name in fields_of(ChatParams)} == CHAT[provider]


RESPONSES = outcomes(
    read="input instructions model max_output_tokens temperature top_p tools tool_choice parallel_tool_calls text "
    "reasoning top_logprobs include metadata user truncation",
    sent="prompt_cache_key safety_identifier service_tier prompt_cache_retention prompt_cache_options",
    not_sent="store max_tool_calls stream_options context_management",
    refused="previous_response_id conversation prompt background moderation",
)


def of_responses(name: str, fields: RequestFields) -> str:
    if name in REJECTED_PARAMETERS:
        return REFUSED
    if name in ResponsesBody.model_fields:
        return NOT_SENT if name in LEFT_OUT else READ
    return outcome(name, fields)


def test_fields_of_responses() -> None:
    assert {name: of_responses(name, accepted("openai")) for name in fields_of(ResponseParams)} == RESPONSES


COMPLETIONS = outcomes(
    read="prompt model max_tokens temperature top_p seed stop stream_options user logprobs",
    sent="frequency_penalty presence_penalty logit_bias n echo suffix",
    refused="best_of",
)
EMBEDDINGS = outcomes(read="input model dimensions encoding_format user")


@pytest.mark.parametrize(
    ("params", "body", "fields", "table"),
    [
        (TextParams, CompletionBody, accepted("openai"), COMPLETIONS),
        (EmbeddingParams, EmbeddingBody, request_fields("embeddings"), EMBEDDINGS),
    ],
)
def test_fields_of_completions_and_embeddings(params: Any, body: Any, fields: RequestFields, table: Outcomes) -> None:
    found = {name: READ if name in body.model_fields else outcome(name, fields) for name in fields_of(params)}
    assert found == table


MESSAGE = outcomes(read="role content", sent="name tool_calls tool_call_id function_call refusal", not_sent="audio")


def of_message(name: str) -> str:
    if name in request_fields(MESSAGE_FIELDS).own:
        return READ
    plain = {"role": "assistant", "content": "Hello"}
    with_field, without = (
        ChatBody.model_validate({"model": "m", "messages": [one]}).to_request(0.0).messages
        for one in ({**plain, name: "x"}, plain)
    )
    return SENT if with_field != without else NOT_SENT


def test_fields_of_chat_messages() -> None:
    kinds = ("User", "Assistant", "Tool", "System", "Developer", "Function")
    names = {name for kind in kinds for name in fields_of(getattr(chat_types, f"ChatCompletion{kind}MessageParam"))}
    assert {name: of_message(name) for name in names} == MESSAGE


# -- Anthropic's

MESSAGES = outcomes(
    read="max_tokens messages model metadata output_config stop_sequences system thinking tool_choice tools",
    sent="cache_control context_management service_tier betas",
    not_sent="billing_policy diagnostics fallback_credit_token fallbacks inference_geo speed user_profile_id "
    "workspace_id",
    refused="container mcp_servers compaction thread",
)


def of_native(name: str) -> str:
    """Returns whether a field that only Anthropic has reaches an engine with Anthropic's API, in the body or in a
    header.
    """
    value = BETAS if name == "betas" else "standard_only" if name == "service_tier" else {"type": "x"}
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], name: value}
    read = MessagesBody.model_validate(body).to_request(0.0)
    api = EngineApi({}, dialect="anthropic", betas=frozenset(BETAS))
    request = EngineRequest("e", "http://e", "m", read.messages, read.sampling, 0.0, api)
    sent = beta_header(request) if name == "betas" else to_messages_body(request, Endpoint("/")).get(name)
    return SENT if sent else NOT_SENT


def of_messages(name: str) -> str:
    if name in MessagesBody.model_fields:
        return READ
    if name in (*PASSED_FIELDS, "betas"):
        return of_native(name)
    return NOT_SENT if name in IGNORED_FIELDS - REJECTED_FIELDS.keys() else REFUSED


def test_fields_of_messages() -> None:
    names = fields_of(MessageParams) | fields_of(BetaMessageParams)
    assert {name: of_messages(name) for name in names} == MESSAGES


# -- documentation


@pytest.mark.parametrize("table", [*CHAT.values(), RESPONSES, MESSAGES, MESSAGE])
def test_what_is_not_sent_is_in_the_table_of_the_documentation(table: Outcomes) -> None:
    not_sent = {name for name, result in table.items() if result == NOT_SENT}
    named = {f"{name} of messages" for name in not_sent} if table is MESSAGE else not_sent
    assert sorted(named - documented_as_not_sent() - SOMETIMES_SENT) == []


def test_what_is_refused_is_documented() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", Path("docs/api.md").read_text("utf-8")))
    assert sorted({name for name, result in MESSAGES.items() if result == REFUSED} - documented) == []
