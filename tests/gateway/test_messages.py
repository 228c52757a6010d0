"""`POST /v1/messages`: Anthropic's Messages API conforms to the published types, and is converted both ways."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway.doubles import anthropic_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY
from tests.gateway.doubles.engine import BREAK, DONE, TOO_LONG, ScriptedEngine, Step, answer, beginning, chunk, usage
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.waiting import until

URL = "/v1/messages"
COUNT_URL = "/v1/messages/count_tokens"
USER = {"role": "user", "content": IN_CHAT}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 50, "messages": list(messages) or [USER], **fields}


def calling(index: int, name: str, *arguments: str) -> list[Step]:
    head = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    return [chunk(tool_calls=[p]) for p in (head, *({"index": index, "function": {"arguments": a}} for a in arguments))]


def text(block: str) -> dict[str, Any]:
    return {"type": "text", "text": block}


def use(number: int, name: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"call_{number}", "name": name, "input": input}


SCRIPTS: dict[str, tuple[list[Step], list[dict[str, Any]], str]] = {
    "text": (answer("Hello", " you"), [text("Hello you")], "end_turn"),
    "nothing": ([chunk("", finish="stop"), usage(), DONE], [], "end_turn"),
    "cut off": (answer("Hello", finish="length"), [text("Hello")], "max_tokens"),
    "filtered": (answer("Hello", finish="content_filter"), [text("Hello")], "refusal"),
    "tools": (
        [
            *calling(0, "weather", '{"city', '":1}'), *calling(1, "notify", "{}"),
            chunk(finish="tool_calls"), usage(), DONE,
        ],
        [use(0, "weather", city=1), use(1, "notify")], "tool_use",
    ),
    "interleaved tools": (
        [
            *calling(0, "weather", '{"a'), *calling(1, "notify", "{"),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": '":1}'}}]),
            chunk(tool_calls=[{"index": 1, "function": {"arguments": "}"}}], finish="tool_calls"), usage(), DONE,
        ],
        [use(0, "weather", a=1), use(1, "notify")], "tool_use",
    ),
    "text, a tool, and text": (
        [chunk("Wait."), *calling(0, "weather", "{}"), chunk("Now"), chunk(" I wait.", finish="stop"), usage(), DONE],
        [text("Wait."), use(0, "weather"), text("Now I wait.")], "tool_use",
    ),
    "a tool that is cut off": (
        [*calling(0, "weather", '{"city": "Par'), chunk(finish="length"), usage(), DONE],
        [use(0, "weather", arguments='{"city": "Par')], "max_tokens",
    ),
    "a tool whose arguments are nested too deeply": (
        [*calling(0, "weather", "[" * 20_000), chunk(finish="tool_calls"), usage(), DONE],
        [use(0, "weather", arguments="[" * 20_000)], "tool_use",
    ),
    "thoughts": (
        [chunk(reasoning="Hm"), chunk(reasoning_content="m."), chunk("Yes", finish="stop"), usage(), DONE],
        [{"type": "thinking", "thinking": "Hmm.", "signature": ""}, text("Yes")], "end_turn",
    ),
    "a refusal": (
        [chunk(refusal="I will "), chunk(refusal="not."), chunk(finish="stop"), usage(), DONE],
        [text("I will not.")], "refusal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
async def test_messages_and_events_conform_to_the_published_types_and_agree(
    http: httpx.AsyncClient, engine: ScriptedEngine, name: str
) -> None:
    steps, content, reason = SCRIPTS[name]
    engine.says(*steps)
    plain = await http.post(URL, json=body(tools=[TOOL]))
    whole = shapes.message(plain.json())
    assert (plain.json()["content"], whole.stop_reason, whole.stop_sequence) == (content, reason, None)
    assert (whole.model, whole.id) == ("tiny", "msg_" + plain.headers["x-pointsman-decision-id"])
    streamed = await http.post(URL, json=body(tools=[TOOL], stream=True))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert assembled(streamed.text) == {**plain.json(), "id": streamed_id(streamed), "pointsman": {}}


def streamed_id(response: httpx.Response) -> str:
    return "msg_" + response.headers["x-pointsman-decision-id"]


def assembled(stream: str) -> dict[str, Any]:
    """Returns the message that a client assembles from the events; asserts that they are in Anthropic's order."""
    shapes.stream(stream)
    events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    message, pieces, is_open = events[0]["message"], "", False
    assert (message["content"], message["stop_reason"]) == ([], None)
    for event in events[2:-2]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(message["content"])
                is_open, pieces = True, ""
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(message["content"]) - 1
                pieces += next(value for name, value in event["delta"].items() if name != "type")
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(message["content"]) - 1
                is_open, block = False, message["content"][-1]
                if block["type"] == "tool_use":
                    block["input"] = json.loads(pieces or "{}") if _is_json(pieces) else {"arguments": pieces}
                else:
                    block[block["type"]] = pieces
    assert not is_open
    return {**message, **events[-2]["delta"], "usage": events[-2]["usage"], "pointsman": {}}


def _is_json(text: str) -> bool:
    try:
        json.loads(text or "{}")
    except (ValueError, RecursionError):
        return False
    return True


async def test_the_events_of_parallel_calls_come_one_block_after_the_other(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*SCRIPTS["interleaved tools"][0])
    events = shapes.stream((await http.post(URL, json=body(tools=[TOOL], stream=True))).text)
    kinds = [
        (event["type"] if isinstance(event, dict) else event.type, getattr(event, "index", None)) for event in events
    ]
    assert kinds == [
        ("message_start", None), ("ping", None), ("content_block_start", 0), ("content_block_delta", 0),
        ("content_block_delta", 0), ("content_block_stop", 0), ("content_block_start", 1), ("content_block_delta", 1),
        ("content_block_stop", 1), ("message_delta", None), ("message_stop", None),
    ]  # fmt: skip


async def test_the_usage_counts_cached_tokens_separately(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " you", prompt_tokens=30, cached_tokens=16))
    counts = {
        "input_tokens": 14, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 16, "output_tokens": 2,
    }  # fmt: skip
    message = (await http.post(URL, json=body())).json()
    assert message["usage"] == counts
    assert message["pointsman"]["cost_usd"] > 0
    streamed = (await http.post(URL, json=body(stream=True))).text
    assert assembled(streamed)["usage"] == counts


def stopped(reason: Any) -> list[Step]:
    last = chunk("", finish="stop")
    last["choices"][0]["stop_reason"] = reason
    return [*beginning("One"), last, usage(), DONE]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_matched_stop_sequence_is_reported(
    http: httpx.AsyncClient, engine: ScriptedEngine, streams: bool
) -> None:
    for asked, reported, expected in (
        (["END", "x"], "END", ("stop_sequence", "END")),
        (["END"], 151645, ("end_turn", None)),
        (["END"], None, ("end_turn", None)),
        ([], "the path's", ("end_turn", None)),
    ):
        engine.says(*stopped(reported))
        got = await http.post(URL, json=body(stop_sequences=asked, stream=streams))
        message = assembled(got.text) if streams else got.json()
        assert (message["stop_reason"], message["stop_sequence"]) == expected
        assert engine.bodies[-1].get("stop") == (asked or None)


# -- requests

RESULT = {"type": "tool_result", "tool_use_id": "call_1"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
CONVERSATIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "a text": (body(), [USER]),
    "a system text": (body(system="Be kind."), [{"role": "system", "content": "Be kind."}, USER]),
    "system blocks": (
        body(system=[{**text("Be kind."), "cache_control": {"type": "ephemeral"}}, text(" Be brief.")]),
        [{"role": "system", "content": "Be kind. Be brief."}, USER],
    ),
    "blocks": (
        body({"role": "user", "content": [{**text("a"), "citations": None}, text("b")]}),
        [{"role": "user", "content": "a\nb"}],
    ),
    "a document": (
        body({"role": "user", "content": [{
            "type": "document", "title": "Rules", "source": {"type": "text", "media_type": "text/plain", "data": "No."},
        }]}),
        [{"role": "user", "content": "Rules\nNo."}],
    ),
    "documents and search results": (
        body({"role": "user", "content": [
            {"type": "document", "title": "Rules", "context": "Of the house.", "cache_control": {"type": "ephemeral"},
             "source": {"type": "content", "content": [text("No."), text("Never.")]}},
            {"type": "document", "title": None, "source": {"type": "content", "content": "Or so."}},
            {"type": "search_result", "title": "Hats", "source": "https://hats.example/1", "content": [text("A hat.")],
             "citations": {"enabled": True}},
            text("May I?"),
        ]}),
        [{"role": "user", "content":
          "Rules\nOf the house.\nNo.\nNever.\nOr so.\nHats\nhttps://hats.example/1\nA hat.\nMay I?"}],
    ),
    "a search result of a tool": (
        body({"role": "user", "content": [{**RESULT, "content": [
            {"type": "search_result", "title": "Hats", "source": "shop", "content": [text("A hat.")]}, text("And more.")
        ]}]}),
        [{"role": "tool", "content": "Hats\nshop\nA hat.\nAnd more.", "tool_call_id": "call_1"}],
    ),
    "an empty message": (body({"role": "user", "content": []}), [{"role": "user", "content": ""}]),
    "a system message within": (
        body(USER, {"role": "system", "content": "Be quick."}, USER),
        [{"role": "system", "content": "Be quick."}, USER, USER],  # as for every dialect
    ),
    "a call and its result": (
        body(
            USER,
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"},
                text("I look."), {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Zürich"}},
            ]},
            {"role": "user", "content": [
                {**RESULT, "content": [text("sun"), text("ny")], "is_error": False},
                {**RESULT, "tool_use_id": "call_2", "content": "cold"}, {**RESULT, "tool_use_id": "call_3"},
                text("And now?"),
            ]},
        ),
        [
            USER, {"role": "assistant", "content": "I look.", "reasoning": "Hm", "tool_calls": [CALL]},
            {"role": "tool", "content": "sun\nny", "tool_call_id": "call_1"},
            {"role": "tool", "content": "cold", "tool_call_id": "call_2"},
            {"role": "tool", "content": "", "tool_call_id": "call_3"},
            {"role": "user", "content": "And now?"},
        ],
    ),
    "a result alone": (
        body(USER, {"role": "user", "content": [{**RESULT, "content": "x"}]}),
        [USER, {"role": "tool", "content": "x", "tool_call_id": "call_1"}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_messages_are_converted_to_those_of_a_chat(
    http: httpx.AsyncClient, engine: ScriptedEngine, name: str
) -> None:
    asked, messages = CONVERSATIONS[name]
    got = await http.post(URL, json=asked)
    assert got.status_code == 200, got.text
    assert engine.bodies[-1]["messages"] == messages
    assert engine.paths[-1] == "/v1/chat/completions"


PARALLEL = {"disable_parallel_tool_use": True}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0.5, "top_p": 0.9, "top_k": 7}, {"temperature": 0.5, "top_p": 0.9, "top_k": 7}),
    ({"stop_sequences": list("abcdef")}, {"stop": list("abcdef")}),
    ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
    ({"tools": [{**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}}]}, {"tools": [FUNCTION]}),
    ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, {"tools": [FUNCTION]}),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "auto", **PARALLEL}}, {}),
    ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": [FUNCTION], "tool_choice": "auto"}),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tools": [FUNCTION], "tool_choice": "required"}),
    ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": [FUNCTION], "tool_choice": "none"}),
    (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather", **PARALLEL}},
        {
            "tools": [FUNCTION], "parallel_tool_calls": False,
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
    ),
    ({"output_config": {"format": FORMAT, "effort": "low"}},
     {"response_format": RESPONSE_FORMAT, "reasoning_effort": "low"}),
    ({"output_format": FORMAT}, {"response_format": RESPONSE_FORMAT}),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {}),
    ({"thinking": {"type": "disabled"}, "context_management": {"edits": []}, "service_tier": "auto"}, {}),
    ({"cache_control": {"type": "ephemeral"}, "container": None, "mcp_servers": [], "n": 1}, {}),
    ({"billing_policy": {"type": "billing_policy", "bill_to": "self"}, "fallback_credit_token": "t"}, {}),
    ({"min_p": 0.1}, {"min_p": 0.1}),
    ({"messages": [USER, {"role": "assistant", "content": "It is"}]},
     {"continue_final_message": True, "add_generation_prompt": False}),
    ({"metadata": {"user_id": "u1", "source": "inbox", "other": None}}, {}),
]  # fmt: skip


async def test_fields_are_converted_to_those_of_a_chat(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    own = {"model", "messages", "stream", "stream_options", "max_tokens"}
    for asked, fields in FIELDS:
        got = await http.post(URL, json=body() | asked)
        assert got.status_code == 200, (asked, got.text)
        converted = {name: value for name, value in engine.bodies[-1].items() if name not in own}
        assert converted == {**fields, **({"n": 1} if "n" in asked else {})}, asked
        assert engine.bodies[-1]["max_tokens"] == 50


async def test_the_users_id_and_metadata_are_used(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    got = await http.post(URL, json=body(model="auto", metadata={"user_id": "u1", "source": "inbox"}))
    assert got.headers["x-pointsman-path"] == "triage_adapter"  # by the rule for this source


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
REJECTED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"max_tokens": None}, "bad_parameter", "max_tokens"),
    ({"max_tokens": 0}, "bad_parameter", "max_tokens"),
    ({"messages": []}, "empty_messages", "messages"),
    ({"messages": [], "system": "x"}, "empty_messages", "messages"),
    ({"model": ""}, "missing_model", "model"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "bad_parameter", "messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, "bad_parameter", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "unsupported_content", "messages"),
    ({"messages": [{"role": "user", "content": [{**RESULT, "content": [IMAGE]}]}]}, "unsupported_content", "messages"),
    ({"messages": [{"role": "user", "content": [{**RESULT, "content": 5}]}]},
     "unsupported_content", "messages[0].content[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
     "unsupported_content", "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]},
     "unsupported_content", "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]},
     "unsupported_content", "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "context": [], "source": {"type": "text"}}]}]},
     "bad_parameter", "messages[0].content[0].context"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "content"}}]}]},
     "bad_parameter", "messages[0].content[0].source.content"),
    ({"messages": [{"role": "user", "content": [{"type": "search_result", "title": "x", "source": {}}]}]},
     "bad_parameter", "messages[0].content[0].source"),
    ({"messages": [{"role": "user", "content": [
        {"type": "search_result", "title": "x", "source": "y", "content": [{"type": "document"}]}]}]},
     "unsupported_content", "messages[0].content[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
     "bad_parameter", "messages[0].content[0].tool_use_id"),
    ({"messages": [{"role": "user", "content": [use(1, "weather")]}]}, "unsupported_content", "messages[0].content[0]"),
    ({"messages": [{"role": "assistant", "content": [RESULT]}]}, "unsupported_content", "messages[0].content[0]"),
    ({"messages": [{"role": "assistant", "content": [{**use(1, "x"), "input": "y"}]}]},
     "bad_parameter", "messages[0].content[0].input"),
    ({"system": [IMAGE]}, "unsupported_content", "system[0]"),
    ({"system": [{"type": "text"}]}, "unsupported_content", "system[0]"),
    ({"tools": [{"name": "x"}]}, "bad_parameter", "tools[0].input_schema"),
    ({"tools": [{"input_schema": {}}]}, "bad_parameter", "tools[0].name"),
    ({"tools": [{"type": "robot", "name": "x", "input_schema": {}}]}, "unsupported_tool", "tools[0].type"),
    ({"tools": [TOOL] * 129}, "too_many_tools", "tools"),
    ({"tool_choice": {"type": "any"}}, "bad_parameter", "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "refund"}}, "bad_parameter", "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "bad_parameter", "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": ["auto"]}}, "bad_parameter", "tool_choice.type"),
    ({"mcp_servers": [{"url": "http://x"}]}, "unsupported_parameter", "mcp_servers"),
    ({"container": "c"}, "unsupported_parameter", "container"),
    ({"thread": {"type": "create"}}, "thread_unsupported_request", "thread"),
    ({"compaction": {"type": "summarize"}}, "unsupported_parameter", "compaction"),
    ({"n": 2}, "bad_parameter", "n"),
    ({"top_k": -1}, "bad_parameter", "top_k"),
    ({"temperature": 3}, "bad_parameter", "temperature"),
    ({"stop_sequences": ["a"] * 65}, "bad_parameter", "stop_sequences"),
    ({"metadata": {"user_id": "x" * 513}}, "bad_parameter", "metadata.user_id"),
    ({"output_config": {"format": {"type": "text"}}}, "bad_parameter", "output_config.format"),
    ({"temprature": 1}, "unsupported_parameter", "temprature"),
    ({"guided_json": {}}, "unsupported_parameter", "guided_json"),
]  # fmt: skip


async def test_invalid_requests_are_rejected_with_the_reason(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for fields, code, param in REJECTED:
        # Counting tokens needs neither a limit nor an engine that accepts the fields.
        for url in (URL,) if fields.keys() & {"max_tokens", "temprature", "guided_json"} else (URL, COUNT_URL):
            got = await http.post(url, json=body() | fields)
            error = shapes.error(got)
            assert (got.status_code, error["type"]) == (400, "invalid_request_error"), (fields, got.text)
            assert (error["code"], error["param"]) == (code, param), (fields, url)
    assert engine.bodies == []


# -- counting tokens


async def test_tokens_are_counted_by_the_engine_as_the_prompt_will_be(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    asked = {"model": "path:small_talk", "messages": [USER], "system": "Be kind.", "tools": [TOOL]}
    got = await http.post(COUNT_URL, json=asked, params={"beta": "true"})
    shapes.token_count(got.json())
    assert got.json() == {"input_tokens": 10, "pointsman": {"path": "small_talk", "count": "exact"}}
    counted = engine.bodies[-1]
    assert engine.paths == ["/tokenize"]
    assert (counted["model"], counted["tools"]) == ("tiny", [FUNCTION])
    engine.says(*answer("Hello"))
    await http.post(URL, json=asked | {"max_tokens": 5})
    assert engine.bodies[-1]["messages"] == counted["messages"]


async def test_other_fields_that_change_the_prompt_are_counted(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for fields, expected in (
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {}),
        ({"output_config": {"effort": "high"}},
         {"chat_template_kwargs": {"reasoning_effort": "high", "enable_thinking": True}}),
        ({"messages": [USER, {"role": "assistant", "content": "It"}]},
         {"continue_final_message": True, "add_generation_prompt": False}),
    ):  # fmt: skip
        got = await http.post(COUNT_URL, json=body() | fields)
        assert got.json()["pointsman"]["count"] == "exact"
        assert {name: v for name, v in engine.bodies[-1].items() if name not in ("model", "messages")} == expected


async def test_an_adapters_tokens_are_counted_with_its_base_model(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    got = await http.post(COUNT_URL, json=body(model="triage@prod"))
    assert got.json()["pointsman"]["count"] == "exact"
    assert engine.bodies[-1]["model"] == "tiny"


async def test_without_the_engines_count_there_is_an_estimate(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for response in (web.Response(status=404), web.Response(text="no JSON"), web.json_response({"count": "x"})):
        engine.tokenizes = lambda body, response=response: response  # type: ignore[misc]  # mypy cannot infer it
        got = (await http.post(COUNT_URL, json=body(tools=[TOOL]))).json()
        assert got["pointsman"] == {"path": "tiny", "count": "estimate"}
        assert 20 < got["input_tokens"] < 80


async def test_counting_decides_and_generates_nothing(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    got = await http.post(COUNT_URL, json={"model": "auto", "messages": [{"role": "user", "content": IN_POLICY}]})
    assert got.json()["pointsman"]["path"] == "handbook"
    assert engine.paths == ["/tokenize"]
    assert gateway.metric("pointsman_route_requests_total", path="handbook") == 1
    assert gateway.metric("pointsman_requests_total") == 0


# -- streams that end early


async def test_a_stream_that_fails_ends_with_an_error_event(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*beginning("Hel"), BREAK)
    *_, last = shapes.stream((await http.post(URL, json=body(stream=True))).text)
    assert (last["type"], last["error"]["type"], last["error"]["code"]) == (
        "error",
        "overloaded_error",
        "engine_unavailable",
    )


async def test_a_client_that_disconnects_stops_the_engine(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    for fields in ({}, {"top_k": 3}):  # the second one is read by uvicorn
        engine.says(*beginning("a"), asyncio.Event(), DONE)
        before = gateway.metric("pointsman_requests_total", outcome="cancelled")
        async with http.stream("POST", URL, json=body(stream=True, **fields)) as got:
            await anext(got.aiter_raw())
            assert engine.running == 1
        await until(lambda: engine.running == 0)
        await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == before + 1)  # noqa: B023  # awaited here


async def test_the_engines_refusal_is_passed_on(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.refuses(400, TOO_LONG)
    got = await http.post(URL, json=body())
    error = shapes.error(got)
    assert (got.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "context_length_exceeded")


async def test_an_engine_that_accepts_fewer_stop_sequences_is_named(
    neighbours: Neighbours, second_engine: ScriptedEngine
) -> None:
    neighbours.config.models["models"]["far"] = neighbours.config.models["models"]["tiny"]
    neighbours.config.models["engines"]["far"] = {"model": "far", "url": second_engine.url, "provider": "openai"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        assert (await http.post(URL, json=body(model="far", stop_sequences=list("abcd")))).status_code == 200
        error = shapes.error(await http.post(URL, json=body(model="far", stop_sequences=list("abcde"))))
        assert (error["code"], error["param"]) == ("bad_parameter", "stop")
        assert error["message"] == "engine 'far' accepts 4 stop sequences; the request has 5"
