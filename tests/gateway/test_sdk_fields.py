"""Every field that OpenAI's and Anthropic's SDKs can send is accounted for: read, sent to the engine, documented as not
sent, or refused.

The tables below say what becomes of each field. A field that a new version of an SDK adds is in no table, and fails.
"""

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anthropic.types as messages_types
import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase as BetaMessageParams
from anthropic.types.message_create_params import MessageCreateParamsBase as MessageParams
from openai.types import chat as chat_types
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.embedding_create_params import EmbeddingCreateParams as EmbeddingParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase as ResponseParams
from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.providers import MESSAGE_FIELDS, RequestFields, request_fields
from pointsman_gateway.http.dialects.anthropic.blocks import HINTS, KEPT_FIELDS
from pointsman_gateway.http.dialects.anthropic.conversion import to_messages
from pointsman_gateway.http.dialects.anthropic.messages import IGNORED_FIELDS, REJECTED_FIELDS, MessagesBody
from pointsman_gateway.http.dialects.anthropic.native import PASSED_FIELDS, SERVER_TOOL_FIELDS, to_native
from pointsman_gateway.http.dialects.openai.chat import ChatBody
from pointsman_gateway.http.dialects.openai.completions import CompletionBody
from pointsman_gateway.http.dialects.openai.embeddings import EmbeddingBody
from pointsman_gateway.http.dialects.openai.responses import LEFT_OUT, REJECTED_PARAMETERS, ResponsesBody
from pointsman_servicekit.errors import InvalidArgument

DOCS = "".join([Path("docs", page).read_text("utf-8") for page in ("api.md", "engines.md")])
READ, SENT, NOT_SENT, REFUSED = "read", "sent", "not sent", "refused"
Outcomes = Mapping[str, str]


def fields_of(params: Any) -> set[str]:
    return set(typing.get_type_hints(params))


def accepted(provider: str) -> RequestFields:
    return EngineConfig(model="m", provider=provider, url="http://127.0.0.1:1").accepted_fields


def outcome(name: str, fields: RequestFields) -> str:
    if name in fields.forwarded:
        return SENT
    return NOT_SENT if name in fields.ignored else REFUSED


def outcomes(**by_outcome: str) -> Outcomes:
    """Returns a table of fields by their outcomes, which are written as `read="a b", sent="c"`."""
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


def of_chat(name: str, fields: RequestFields) -> str:
    return READ if name in ChatBody.model_fields else outcome(name, fields)


@pytest.mark.parametrize("provider", CHAT)
def test_fields_of_chat_completions(provider: str) -> None:
    assert {name: of_chat(name, accepted(provider)) for name in fields_of(ChatParams)} == CHAT[provider]


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


def test_fields_of_chat_messages() -> None:
    kinds = ("User", "Assistant", "Tool", "System", "Developer", "Function")
    names = {name for kind in kinds for name in fields_of(getattr(chat_types, f"ChatCompletion{kind}MessageParam"))}
    fields = request_fields(MESSAGE_FIELDS)
    assert {name: READ if name in fields.own else outcome(name, fields) for name in names} == MESSAGE


# -- Anthropic's

MESSAGES = outcomes(
    read="max_tokens messages model metadata output_config stop_sequences system thinking tool_choice tools",
    sent="cache_control context_management service_tier betas",
    not_sent="billing_policy diagnostics fallback_credit_token fallbacks inference_geo speed user_profile_id "
    "workspace_id",
    refused="container mcp_servers compaction thread",
)


def of_messages(name: str) -> str:
    if name in MessagesBody.model_fields:
        return READ
    if name in (*PASSED_FIELDS, "betas"):
        assert name in (to_native({name: ["x"]}, None, {}, ()) or {})
        return SENT
    return NOT_SENT if name in IGNORED_FIELDS - REJECTED_FIELDS.keys() else REFUSED


def test_fields_of_messages() -> None:
    names = fields_of(MessageParams) | fields_of(BetaMessageParams)
    assert {name: of_messages(name) for name in names} == MESSAGES


CONVERTED: Mapping[str, set[str]] = {
    "text": {"text"},
    "image": {"source"},
    "document": {"source"},
    "search_result": {"source", "title", "content"},
    "thinking": {"thinking"},
    "redacted_thinking": set(),
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content"},
}
"""The fields of each type of block that every engine gets."""
DROPPED_OF_BLOCKS = {"transformations", "caller", "toolset_name", "citations"}
"""Of a search result, `citations` too."""
REFUSED_BLOCKS = {
    "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
    "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result",
    "container_upload",
}  # fmt: skip


def blocks() -> Mapping[str, set[str]]:
    """Returns the fields of each content block of the SDK, by the block's type."""
    found = {}
    for block in typing.get_args(messages_types.ContentBlockParam):
        hints = typing.get_type_hints(block)
        (kind,) = typing.get_args(hints["type"])
        found[kind] = set(hints) - {"type"}
    return found


def test_content_blocks_are_converted_or_refused() -> None:
    found = blocks()
    assert found.keys() == CONVERTED.keys() | REFUSED_BLOCKS
    for kind in REFUSED_BLOCKS:
        for role in ("user", "assistant"):
            with pytest.raises(InvalidArgument) as refused:
                list(to_messages(role, [{"type": kind}], "content"))
            assert refused.value.code == "unsupported_content"


def test_fields_of_content_blocks() -> None:
    found = blocks()
    for kind, converted in CONVERTED.items():
        kept = set(KEPT_FIELDS.get(kind, HINTS))
        assert found[kind] - converted - kept <= DROPPED_OF_BLOCKS, kind
        assert converted | kept <= found[kind], kind


def test_fields_of_tools() -> None:
    tool = {
        "input_schema": {},
        "name": "f",
        **dict.fromkeys(fields_of(messages_types.ToolParam), "x"),
        "type": "custom",
    }
    native = to_native({}, None, {}, [tool])
    assert native is not None
    assert tool.keys() - native["tools"][0].keys() == SERVER_TOOL_FIELDS


# -- documentation


@pytest.mark.parametrize(
    "names",
    [
        *[[name for name, result in table.items() if result == NOT_SENT] for table in CHAT.values()],
        [name for name, result in {**RESPONSES, **MESSAGES, **MESSAGE}.items() if result == NOT_SENT],
        [*SERVER_TOOL_FIELDS, *DROPPED_OF_BLOCKS, *MESSAGES, *REFUSED_BLOCKS],
    ],
)
def test_what_is_not_sent_is_documented(names: list[str]) -> None:
    documented = set(re.findall(r"`([a-z_]+)`", DOCS))
    assert sorted(set(names) - documented) == []
