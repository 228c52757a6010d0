"""Features that only Anthropic has reach engines with Anthropic's API, and no other engines."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import Message, Sampling
from pointsman_gateway.domain.blocks import Block
from pointsman_gateway.engines.dialects.anthropic.content import to_turns

from tests.gateway.doubles import anthropic_shapes
from tests.gateway.doubles.anthropic_api import (
    HELLO,
    Anthropic,
    ask,
    block,
    ended,
    running_anthropic,
    site,
    started,
    text,
)
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Neighbours

MESSAGES = "/v1/messages"
CACHED: Mapping[str, Any] = {"cache_control": {"type": "ephemeral"}}
LONG: Mapping[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
USE = {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Oslo"}}


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


@pytest.fixture
async def claude(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    async with site(neighbours, anthropic, monkeypatch, input=["text", "image", "file", "url"]) as http:
        yield http


def text_block(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def asked(*messages: Any, **more: Any) -> dict[str, Any]:
    given = messages or ({"role": "user", "content": "Hi"},)
    return {"model": "claude", "max_tokens": 2000, "messages": [*given], **more}


CONVERSATION: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {
                "type": "document",
                "title": "Rules",
                "context": "of the house",
                "citations": {"enabled": True},
                "source": {"type": "text", "media_type": "text/plain", "data": "No umbrellas."},
                **LONG,
            },
            {**PICTURE, **CACHED},
            text_block("May I?"),
            text_block(" Really?", **CACHED),
        ],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Let me look.", "signature": "sig=="},
            {"type": "redacted_thinking", "data": "secret=="},
            text_block("I look."),
            {**USE, **CACHED},
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "c1",
                "is_error": True,
                "content": [text_block("Broken:"), {**PICTURE, **CACHED}, text_block("see")],
                **CACHED,
            },
            text_block("Again", **CACHED),
        ],
    },
]


async def test_blocks_arrive_as_they_were_sent(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    system = [text_block("Be brief."), text_block("Be kind.", **CACHED)]
    answered = await claude.post(MESSAGES, json=asked(*CONVERSATION, system=system))
    assert answered.status_code == 200, answered.text
    assert anthropic.bodies[0]["system"] == system
    assert anthropic.bodies[0]["messages"] == CONVERSATION


CITED: Mapping[str, Any] = {"citations": {"enabled": True}}
FOUND = {"type": "search_result", "source": "https://x.example", "title": "Rules", "content": [text_block("No hats.")]}
PAGES = {
    "type": "document",
    "title": "Pages",
    "context": "of the house",
    "source": {
        "type": "content",
        "content": [text_block("No umbrellas."), {**PICTURE, **CACHED}, text_block("No dogs.")],
    },
}


async def test_search_results_and_documents_of_blocks_keep_their_form(
    claude: httpx.AsyncClient, anthropic: Anthropic
) -> None:
    found = {**FOUND, "content": [text_block("No hats."), text_block("No boots.", **CACHED)], **CITED, **LONG}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{**FOUND, **CITED}, text_block("see"), {**FOUND}]}
    messages = [
        {
            "role": "user",
            "content": [text_block("Read:"), FOUND, {**PAGES, **CITED}, text_block("and"), found, PICTURE],
        },
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [result, PAGES, text_block("May I?")]},
    ]
    answered = await claude.post(MESSAGES, json=asked(*messages))
    assert answered.status_code == 200, answered.text
    assert anthropic.bodies[0]["messages"] == messages


async def test_a_paths_own_system_prompt_comes_before_the_cached_one(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours.config.paths["careful"] = {"model": "claude", "strategies": [{"persona": {"prompt": "persona.txt"}}]}
    async with site(neighbours, anthropic, monkeypatch) as http:
        await http.post(MESSAGES, json=asked(model="path:careful", system=[text_block("Be brief.", **CACHED)]))
    assert anthropic.bodies[0]["system"] == [text_block("You are Wren."), text_block("Be brief.", **CACHED)]


async def test_fields_of_the_request_are_kept(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    fields: dict[str, Any] = {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        "service_tier": "standard_only",
        "output_config": {"effort": "low", "task_budget": {"type": "tokens", "total": 9}},
        **CACHED,
    }
    sampling = {"temperature": 0.5, "top_k": 3, "top_p": 0.5}
    answered = await claude.post(MESSAGES, json=asked(**fields, **sampling, metadata={"user_id": "u1"}))
    assert answered.status_code == 200, answered.text
    body = anthropic.bodies[0]
    assert {name: body[name] for name in fields} == fields
    assert not {"metadata", *sampling} & body.keys()  # with thinking the API rejects such sampling


async def test_the_beginning_of_an_answer_is_continued(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "One, two,"}]
    assert (await claude.post(MESSAGES, json=asked(*messages))).status_code == 200
    assert anthropic.bodies[0]["messages"][1] == {"role": "assistant", "content": [text_block("One, two,")]}


def test_tools_that_the_client_runs_keep_a_paths_limits_away() -> None:
    path = Sampling(max_tokens=60, stop=("\n",))
    asked_with_tools = Sampling(anthropic={"tools": [{"type": "bash_20250124", "name": "bash"}]})
    limited = asked_with_tools.with_defaults(path)
    assert (limited.max_tokens, limited.stop, limited.anthropic) == (None, (), asked_with_tools.anthropic)


async def test_tools_keep_their_own_fields_and_those_that_the_client_runs_are_sent(
    claude: httpx.AsyncClient, anthropic: Anthropic
) -> None:
    tool = {
        "name": "look", "description": "Looks", "input_schema": SCHEMA, "input_examples": [{"city": "Oslo"}],
        "eager_input_streaming": True, **CACHED,
    }  # fmt: skip
    bash, search = {"type": "bash_20250124", "name": "bash"}, {"type": "web_search_20250305", "name": "web_search"}
    choice = {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    tools = [{**tool, "defer_loading": True}, bash, search]
    answered = await claude.post(MESSAGES, json=asked(tools=tools, tool_choice=choice))
    assert answered.status_code == 200, answered.text
    assert (anthropic.bodies[0]["tools"], anthropic.bodies[0]["tool_choice"]) == ([tool, bash], choice)


async def test_only_beta_features_that_the_preset_allows_are_named(
    claude: httpx.AsyncClient, anthropic: Anthropic
) -> None:
    wanted = {"anthropic-beta": "interleaved-thinking-2025-05-14, context-1m-2025-08-07,\tx-y"}
    for body in (
        asked(),
        asked({"role": "user", "content": [text_block("Hi")]}, betas=["structured-outputs-2025-11-13"]),
    ):
        assert (await claude.post(MESSAGES, json=body, headers=wanted)).status_code == 200
    await claude.post(MESSAGES, json=asked())
    sent = [headers.get("anthropic-beta") for headers in anthropic.headers]
    assert sent == [
        "interleaved-thinking-2025-05-14", "structured-outputs-2025-11-13,interleaved-thinking-2025-05-14", None,
    ]  # fmt: skip


async def test_betas_that_are_no_list_of_strings_are_rejected(claude: httpx.AsyncClient) -> None:
    named = {"anthropic-beta": "interleaved-thinking-2025-05-14"}
    for betas in (5, "abc", {"a": 1}, [{"a": 1}], [["a"]]):
        for headers in (None, named):
            error = anthropic_shapes.error(await claude.post(MESSAGES, json=asked(betas=betas), headers=headers))
            assert (error["code"], error["param"]) == ("bad_parameter", "betas")


async def test_other_engines_get_what_they_got_before(
    http: httpx.AsyncClient, neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    def without(value: Any) -> Any:
        own = {"cache_control", "is_error", "signature", "citations"}
        if isinstance(value, dict):
            return {name: without(one) for name, one in value.items() if name not in own}
        return [without(one) for one in value] if isinstance(value, list) else value

    texts = [{**m, "content": [b for b in m["content"] if b["type"] != "image"]} for m in CONVERSATION]
    texts[2]["content"] = [{**texts[2]["content"][0], "content": [text_block("Broken:")]}, texts[2]["content"][1]]
    body = {**asked(*texts, system=[text_block("Be brief.", **CACHED)]), "model": "tiny"}
    for each in ({**body, "thinking": {"type": "enabled", "budget_tokens": 1024}, **CACHED}, without(body)):
        assert (await http.post(MESSAGES, json=each)).status_code == 200
    first, second = engine.bodies[-2:]
    assert first == second
    assert "cache_control" not in json.dumps(first)


WRONG: list[tuple[Any, str]] = [
    (text_block("x", cache_control="5m"), "messages[0].content[0].cache_control"),
    ({**PICTURE, "cache_control": ["x"]}, "messages[0].content[0].cache_control"),
    (
        {"type": "tool_result", "tool_use_id": "c", "content": "x", "is_error": "yes"},
        "messages[0].content[0].is_error",
    ),
]


@pytest.mark.parametrize(("part", "param"), WRONG)
async def test_fields_of_a_wrong_type_are_named(claude: httpx.AsyncClient, part: Any, param: str) -> None:
    error = anthropic_shapes.error(await claude.post(MESSAGES, json=asked({"role": "user", "content": [part]})))
    assert (error["code"], error["param"]) == ("bad_parameter", param)


async def test_chat_completions_may_set_cache_breakpoints(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}, **CACHED}
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a"}, **CACHED}
    answered = await ask(
        claude,
        {"role": "system", "content": [text_block("Be brief."), text_block("Be kind.", **CACHED)]},
        {"role": "user", "content": [text_block("Look"), picture]},
        {"role": "assistant", "content": "I look.", "tool_calls": [call], **CACHED},
        {"role": "tool", "tool_call_id": "c1", "content": "Nothing", **CACHED},
        tools=[tool],
        **LONG,
    )  # fmt: skip
    assert answered.status_code == 200, answered.text
    body = anthropic.bodies[0]
    assert body["system"] == [text_block("Be brief."), text_block("Be kind.", **CACHED)]
    remote = {"type": "image", "source": {"type": "url", "url": "https://x.example/a"}, **CACHED}
    use = {"type": "tool_use", "id": "c1", "name": "look", "input": {}, **CACHED}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [text_block("Nothing")], **CACHED}
    assert body["messages"] == [
        {"role": "user", "content": [text_block("Look"), remote]},
        {"role": "assistant", "content": [text_block("I look."), use]},
        {"role": "user", "content": [result]},
    ]
    assert body["tools"] == [{"name": "look", "input_schema": SCHEMA, **CACHED}]
    assert body["cache_control"] == LONG["cache_control"]


@pytest.mark.parametrize("calls", [[5], 5, [{"function": None}]])
async def test_malformed_calls_of_a_message_with_a_breakpoint_are_rejected(
    claude: httpx.AsyncClient, anthropic: Anthropic, calls: Any
) -> None:
    message = {"role": "assistant", "content": "I look.", "tool_calls": calls, **CACHED}
    answered = await ask(claude, {"role": "user", "content": "Look"}, message)
    error = answered.json()["error"]
    assert (answered.status_code, error["code"], error["param"]) == (400, "bad_parameter", "messages")
    assert "'tool_calls' must be a list of objects" in error["message"]
    assert anthropic.bodies == []


async def test_a_call_in_the_older_form_keeps_its_breakpoint(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}, **CACHED}
    result = {"role": "function", "name": "look", "content": "Nothing"}
    assert (await ask(claude, {"role": "user", "content": "Look"}, called, result)).status_code == 200
    use = {"type": "tool_use", "id": "look", "name": "look", "input": {}, **CACHED}
    assert anthropic.bodies[0]["messages"][1] == {"role": "assistant", "content": [use]}


THOUGHT = block(
    0, "thinking", {"type": "thinking_delta", "thinking": "Hm"}, {"type": "signature_delta", "signature": "sig"},
    thinking="", signature="",
)  # fmt: skip
ENCRYPTED = block(1, "redacted_thinking", data="secret")


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_signed_thinking_comes_back_signed(
    claude: httpx.AsyncClient, anthropic: Anthropic, streams: bool
) -> None:
    anthropic.events = [started(), *THOUGHT, *ENCRYPTED, *text("Hello", index=2), *ended()]
    answered = await claude.post(MESSAGES, json=asked(stream=streams))
    content = [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "secret"},
        text_block("Hello"),
    ]
    message = anthropic_shapes.joined(answered.text) if streams else answered.json()
    assert message["content"] == content
    anthropic.events = HELLO
    await claude.post(MESSAGES, json=asked(*asked()["messages"], {"role": "assistant", "content": content}))
    assert anthropic.bodies[1]["messages"][1]["content"] == content


async def test_chat_clients_send_signed_thinking_back_as_they_got_it(
    claude: httpx.AsyncClient, anthropic: Anthropic
) -> None:
    anthropic.events = [started(), *THOUGHT, *ENCRYPTED, *text("Hello", index=2), *ended()]
    message = (await ask(claude)).json()["choices"][0]["message"]
    assert [one["type"] for one in message["reasoning_details"]] == ["reasoning.text", "reasoning.encrypted"]
    anthropic.events = HELLO
    await ask(claude, {"role": "user", "content": "Hi"}, message, {"role": "user", "content": "And?"})
    assert anthropic.bodies[1]["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "secret"},
        text_block("Hello"),
    ]


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_citations_stay_with_their_text(claude: httpx.AsyncClient, anthropic: Anthropic, streams: bool) -> None:
    citation: dict[str, Any] = {
        "type": "char_location",
        "cited_text": "No umbrellas.",
        "document_index": 0,
        "document_title": "Rules",
    }
    citation |= {"start_char_index": 0, "end_char_index": 13}
    cited = {"type": "citations_delta", "citation": citation}
    anthropic.events = [
        started(), *text("I read: "), *block(1, "text", {"type": "text_delta", "text": "no."}, cited, text=""),
        *text(" Sorry.", index=2), *ended(),
    ]  # fmt: skip
    answered = await claude.post(MESSAGES, json=asked(stream=streams))
    message = anthropic_shapes.joined(answered.text) if streams else answered.json()
    assert message["content"] == [
        text_block("I read: "),
        text_block("no.", citations=[citation]),
        text_block(" Sorry."),
    ]
    assert message["stop_reason"] == "end_turn"


async def test_the_stop_sequence_is_reported(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    delta = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    anthropic.events = [*HELLO[:-2], {"type": "message_delta", "delta": delta, "usage": {}}, HELLO[-1]]
    response = (await claude.post(MESSAGES, json=asked(stop_sequences=["END"]))).json()
    assert (response["stop_reason"], response["stop_sequence"]) == ("stop_sequence", "END")


# -- guardrails

EMAIL = "ann@example.org"
SECRETS = {"name": "secrets", "action": "redact", "check": {"regex": {"EMAIL": r"[\w.]+@[\w.]+\w"}}}


@pytest.fixture
async def guarded(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    neighbours.config.rest_of_tasks["guardrails"] = [SECRETS]
    async with site(neighbours, anthropic, monkeypatch, input=["text", "image", "file", "url"]) as http:
        yield http


async def test_a_redacted_text_is_redacted_in_its_block_too(guarded: httpx.AsyncClient, anthropic: Anthropic) -> None:
    document = {
        "type": "document", "title": f"By {EMAIL}", "context": EMAIL, **CACHED,
        "source": {"type": "text", "media_type": "text/plain", "data": f" Says {EMAIL} now."},
    }  # fmt: skip
    found = {
        "type": "search_result",
        "source": EMAIL,
        "title": EMAIL,
        "content": [text_block(f"Ask {EMAIL} now.")],
        **CITED,
    }
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "is_error": True,
        "content": [text_block(f"no {EMAIL}", **CACHED)],
    }
    messages = [
        {
            "role": "user",
            "content": [text_block(f"I am {EMAIL} here"), document, found, text_block("It rains.", **CACHED)],
        },
        {"role": "assistant", "content": [{**USE, "input": {"to": EMAIL}, **CACHED}]},
        {"role": "user", "content": [result, PICTURE, text_block(f"And {EMAIL}?", **LONG)]},
    ]
    system = [text_block(f"Ask {EMAIL} now."), text_block("Be kind.", **CACHED)]
    answered = await guarded.post(MESSAGES, json=asked(*messages, system=system))
    assert answered.status_code == 200, answered.text
    body = anthropic.bodies[0]
    expected = json.loads(json.dumps({"system": system, "messages": messages}).replace(EMAIL, "[EMAIL]"))
    assert {"system": body["system"], "messages": body["messages"]} == expected


async def test_a_finding_that_spans_two_blocks_is_redacted_in_both(
    guarded: httpx.AsyncClient, anthropic: Anthropic
) -> None:
    system = [text_block("I am ann@exam", **CACHED), text_block("ple.org, and", **CACHED), text_block(" you?")]
    await guarded.post(MESSAGES, json=asked({"role": "user", "content": "Hi"}, system=system))
    blocks = anthropic.bodies[0]["system"]
    sent = "".join(block["text"] for block in blocks)
    assert "ann@exam" not in sent
    assert "ple.org" not in sent
    assert blocks[-1] == text_block(" you?")


async def test_thinking_that_is_redacted_loses_its_signature_and_is_not_sent(
    guarded: httpx.AsyncClient, anthropic: Anthropic
) -> None:
    thinking = {"type": "thinking", "thinking": f"It is {EMAIL}", "signature": "sig"}
    content = [thinking, text_block("Hello", **CACHED)]
    user = {"role": "user", "content": "Hi"}
    await guarded.post(MESSAGES, json=asked(user, {"role": "assistant", "content": content}, user))
    detail = {"type": "reasoning.text", "text": f"It is {EMAIL}", "signature": "s", "format": "anthropic-claude-v1"}
    await ask(guarded, user, {"role": "assistant", "content": "Hello", "reasoning_details": [detail]}, user)
    assert anthropic.bodies[0]["messages"][1]["content"] == [text_block("Hello", **CACHED)]
    assert anthropic.bodies[1]["messages"][1]["content"] == [text_block("Hello")]


async def test_a_text_that_a_strategy_replaces_is_not_undone_by_its_blocks() -> None:
    message = Message("user", "Something else", {}, (Block("text", CACHED, 0, 2), Block("text", {}, 2, 5)))
    assert to_turns([message]) == [{"role": "user", "content": [text_block("Something else")]}]
