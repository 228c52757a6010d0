"""`POST /v1/responses`: items and events conform to the published types, and the gateway stores nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY
from tests.gateway.doubles.engine import BREAK, DONE, TOO_LONG, ScriptedEngine, Step, answer, chunk, usage
from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.openai_clients import in_a_thread, opening_client
from tests.gateway.doubles.waiting import until

URL = "/v1/responses"
TOOL: dict[str, Any] = {"type": "function", "name": "refund", "parameters": {"type": "object"}, "strict": True}
CUSTOM: dict[str, Any] = {"type": "custom", "name": "shell_script", "description": "Runs a script."}
NAMESPACE: dict[str, Any] = {"type": "namespace", "name": "crm", "description": "", "tools": [{**TOOL, "name": "find"}]}


class Lost(BaseModel):
    item: str


def calling(index: int, name: str, *arguments: str) -> list[Step]:
    head = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    return [chunk(tool_calls=[p]) for p in (head, *({"index": index, "function": {"arguments": a}} for a in arguments))]


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with opening_client(gateway) as client:
        yield client


def asking(**more: Any) -> dict[str, Any]:
    return {"model": "auto", "input": IN_CHAT, **more}


def token(text: str) -> dict[str, Any]:
    top = {"token": text, "logprob": -0.25, "bytes": None}
    return {**top, "top_logprobs": [top]}


SCRIPTS: dict[str, list[Step]] = {
    "text": answer("Hello", " you"),
    "nothing": [chunk("", finish="stop"), usage(), DONE],
    "cut off": answer("Hello", finish="length"),
    "filtered": answer("Hello", finish="content_filter"),
    "tools": [
        *calling(0, "refund", '{"a', '":1}'), *calling(1, "notify", "{}"), chunk(finish="tool_calls"), usage(), DONE,
    ],
    "by turns": [
        *calling(0, "refund", '{"a'), *calling(1, "notify", "{"),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '":1}'}}]),
        chunk(tool_calls=[{"index": 1, "function": {"arguments": "}"}}], finish="tool_calls"), usage(), DONE,
    ],
    "text and a tool": [chunk("Wait."), *calling(0, "refund", "{}"), chunk(finish="tool_calls"), usage(), DONE],
    "thoughts": [chunk(reasoning="Hm"), chunk(reasoning_content="m."), chunk("Yes", finish="stop"), usage(), DONE],
    "a refusal": [chunk(refusal="I will "), chunk(refusal="not."), chunk(finish="stop"), usage(), DONE],
    "logprobs": [chunk("Hi", logprobs={"content": [token("Hi")]}, finish="stop"), usage(), DONE],
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
async def test_responses_and_events_conform_to_the_published_types_and_agree(
    http: httpx.AsyncClient, engine: ScriptedEngine, name: str
) -> None:
    engine.says(*SCRIPTS[name])
    body = asking(tools=[TOOL], top_logprobs=1)
    plain = await http.post(URL, json=body)
    whole = shapes.response(plain.json())
    assert plain.headers["x-pointsman-task"] == "chat"
    streamed = await http.post(URL, json={**body, "stream": True})
    events = [shapes.response_event(event) for event in shapes.events(streamed.text)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = shapes.response(shapes.events(streamed.text)[-1]["response"])
    assert events[-1].type == f"response.{whole.status}"
    assert "[DONE]" not in streamed.text
    assert [_without_id(item) for item in last.output] == [_without_id(item) for item in whole.output]
    assert last.usage == whole.usage
    # The final item equals the sum of the events.
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert sorted(str(item.id) for item in done) == sorted(str(item.id) for item in last.output)
    texts = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert texts == last.output_text
    for number, item in enumerate(last.output):
        pieces = [e for e in events if e.type == "response.function_call_arguments.delta" and e.output_index == number]
        assert item.type != "function_call" or "".join(e.delta for e in pieces) == item.arguments


def _without_id(item: Any) -> dict[str, Any]:
    return {name: value for name, value in item.model_dump().items() if name != "id"}


async def test_the_events_of_a_text_come_in_openais_order(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*SCRIPTS["text"])
    text = (await http.post(URL, json=asking(stream=True))).text
    order = [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event["type"] for event in shapes.events(text)] == order
    assert [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")] == order


async def test_the_events_of_a_call_come_in_openais_order(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*SCRIPTS["text and a tool"])
    events = shapes.events((await http.post(URL, json=asking(stream=True, tools=[TOOL]))).text)
    assert [event["type"] for event in events][8:] == [
        "response.output_item.added", "response.function_call_arguments.delta", "response.function_call_arguments.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert events[7]["type"] == "response.output_item.done"  # the text was complete when the call began
    assert [event["item"]["type"] for event in events if "item" in event] == ["message"] * 2 + ["function_call"] * 2


async def test_the_reason_of_an_incomplete_response_is_reported(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    for name, reason in (("cut off", "max_output_tokens"), ("filtered", "content_filter")):
        engine.says(*SCRIPTS[name])
        got = await client.responses.create(model="auto", input=IN_CHAT, max_output_tokens=1)
        assert got.status == "incomplete"
        assert got.incomplete_details is not None
        assert got.incomplete_details.reason == reason
        assert getattr(got.output[-1], "status", None) == "incomplete"
    assert engine.bodies[-1]["max_tokens"] == 1


# -- with OpenAI's client


async def test_the_client_gets_text_usage_and_cost(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " you", prompt_tokens=30, cached_tokens=16))
    got = await client.responses.create(model="auto", input=IN_CHAT, instructions="Be kind.", metadata={"a": "b"})
    assert (got.output_text, got.status, got.model, got.metadata) == ("Hello you", "completed", "tiny", {"a": "b"})
    assert got.usage is not None
    assert (got.usage.input_tokens, got.usage.input_tokens_details.cached_tokens, got.usage.total_tokens) == (
        30,
        16,
        32,
    )
    assert got.model_extra is not None
    assert got.model_extra["pointsman"]["path"] == "small_talk"
    assert engine.bodies[0]["messages"] == [
        {"role": "system", "content": "You are Wren.\n\nBe kind."},
        {"role": "user", "content": IN_CHAT},
    ]


async def test_the_client_reads_the_stream_to_its_end(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(*SCRIPTS["tools"])
    async with client.responses.stream(model="auto", input=IN_CHAT, tools=[TOOL]) as stream:  # type: ignore[list-item]  # a dict is one
        types = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert types.count("response.function_call_arguments.done") == 2
    assert [(i.name, i.arguments, i.call_id) for i in final.output if i.type == "function_call"] == [
        ("refund", '{"a":1}', "call_0"),
        ("notify", "{}", "call_1"),
    ]


async def test_a_structured_answer_is_parsed(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*answer('{"item": ', '"hat"}'))
    assert (await client.responses.parse(model="auto", input=IN_CHAT, text_format=Lost)).output_parsed == Lost(
        item="hat"
    )
    asked = engine.bodies[-1]["response_format"]
    assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == (
        "json_schema",
        "Lost",
        True,
    )
    async with client.responses.stream(model="auto", input=IN_CHAT, text_format=Lost) as stream:
        assert (await stream.get_final_response()).output_parsed == Lost(item="hat")
    in_thread = await in_a_thread(
        gateway, lambda client: client.responses.parse(model="auto", input=IN_CHAT, text_format=Lost)
    )
    assert in_thread.output_parsed == Lost(item="hat")


async def test_an_output_can_be_sent_back_as_input(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(chunk(reasoning="Hm."), chunk("Wait."), *SCRIPTS["tools"])
    first = await client.responses.create(model="tiny", input="Pay back AB12", tools=[TOOL])  # type: ignore[list-item]  # a dict is one
    output: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Pay back "}, {"type": "input_text", "text": "AB12"}],
        },
        *first.output,
        {"type": "function_call_output", "call_id": "call_0", "output": "done"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "told"}]},
    ]
    engine.says(*answer("It is done."))
    second = await client.responses.create(model="tiny", input=output, tools=[TOOL])  # type: ignore[list-item]  # a dict is one
    assert second.output_text == "It is done."
    calls = [
        {"id": "call_0", "type": "function", "function": {"name": "refund", "arguments": '{"a":1}'}},
        {"id": "call_1", "type": "function", "function": {"name": "notify", "arguments": "{}"}},
    ]
    assert engine.bodies[-1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Pay back \nAB12"},
        {"role": "assistant", "content": "Wait.", "tool_calls": calls},
        {"role": "tool", "content": "done", "tool_call_id": "call_0"},
        {"role": "tool", "content": "told", "tool_call_id": "call_1"},
    ]


# -- tools that are no functions


async def test_the_model_sees_namespaces_and_custom_tools_as_functions(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    tools = [
        {"type": "web_search"}, CUSTOM, {"type": "web_search_preview_2025_03_11"}, NAMESPACE,
        {"type": "mcp", "server_label": "x", "server_url": "https://x"}, {"type": "image_generation"},
    ]  # fmt: skip
    for choice, named in [
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "name": "find"}, "crm__find"),
        ({"type": "function", "name": "crm__find"}, "crm__find"),
        ({"type": "custom", "name": "shell_script"}, "shell_script"),
    ]:
        answer = await http.post(URL, json=asking(tools=tools, tool_choice=choice))
        assert answer.status_code == 200, answer.text
        assert answer.json()["tools"] == tools
        asked = engine.bodies[-1]
        parameters = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        assert asked["tools"] == [
            {
                "type": "function",
                "function": {"name": "shell_script", "description": "Runs a script.", "parameters": parameters},
            },
            {"type": "function", "function": {"name": "crm__find", "parameters": {"type": "object"}, "strict": True}},
        ]
        is_word = isinstance(choice, str)
        assert asked["tool_choice"] == (named if is_word else {"type": "function", "function": {"name": named}})


async def test_without_a_tool_that_the_model_can_call_it_sees_none(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    body = asking(tools=[{"type": "web_search"}], tool_choice="auto", parallel_tool_calls=True)
    assert (await http.post(URL, json=body)).status_code == 200
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & engine.bodies[-1].keys()


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_have_the_names_that_the_client_gave_its_tools(
    http: httpx.AsyncClient, engine: ScriptedEngine, stream: bool
) -> None:
    engine.says(
        *calling(0, "crm__find", '{"a', '":1}'), *calling(1, "shell_script", '{"input": "ls', ' -l"}'),
        *calling(2, "shell_script", "ls"), chunk(finish="tool_calls"), usage(), DONE,
    )  # fmt: skip
    answer = await http.post(URL, json=asking(tools=[CUSTOM, NAMESPACE], stream=stream))
    if stream:
        events = shapes.events(answer.text)
        for event in events:
            shapes.response_event(event)
        response = events[-1]["response"]
        done = [e["input"] for e in events if e["type"] == "response.custom_tool_call_input.done"]
        assert done == ["ls -l", "ls"]
    else:
        response = answer.json()
    shapes.response(response)
    seen = [{name: item.get(name) for name in ("type", "call_id", "name", "namespace")} for item in response["output"]]
    assert seen == [
        {"type": "function_call", "call_id": "call_0", "name": "find", "namespace": "crm"},
        {"type": "custom_tool_call", "call_id": "call_1", "name": "shell_script", "namespace": None},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "shell_script", "namespace": None},
    ]
    assert [item.get("input") for item in response["output"]] == [None, "ls -l", "ls"]
    results = [
        {"type": "function_call_output", "call_id": "call_0", "output": "Ann"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "a.txt"},
    ]
    back = [{"role": "user", "content": "x"}, *response["output"], *results]
    assert (await http.post(URL, json=asking(model="tiny", input=back))).status_code == 200
    _, messages, *answers = engine.bodies[-1]["messages"]
    called = [(call["function"]["name"], call["function"]["arguments"]) for call in messages["tool_calls"]]
    assert called[:2] == [("crm__find", '{"a":1}'), ("shell_script", '{"input": "ls -l"}')]
    assert [(message["role"], message["content"]) for message in answers] == [("tool", "Ann"), ("tool", "a.txt")]


async def test_parameters_are_converted_for_the_engine(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    tools: Any = [TOOL]
    got = await client.responses.create(
        model="auto", input=IN_CHAT, tools=tools, tool_choice={"type": "function", "name": "refund"},
        parallel_tool_calls=False, temperature=0.2, top_p=0.5, reasoning={"effort": "low"}, text={"verbosity": "low"},
        include=["message.output_text.logprobs"], service_tier="flex", prompt_cache_key="k", truncation="disabled",
        extra_body={"top_k": 3},
    )  # fmt: skip
    asked = engine.bodies[-1]
    function = {"name": "refund", "parameters": {"type": "object"}, "strict": True}
    assert asked["tools"] == [{"type": "function", "function": function}]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "refund"}}
    passed = {
        "parallel_tool_calls": False,
        "temperature": 0.2,
        "top_p": 0.5,
        "reasoning_effort": "low",
        "logprobs": True,
    }
    passed["top_k"] = 3
    assert {name: asked[name] for name in passed} == passed
    assert not {"input", "instructions", "text", "reasoning", "include", "truncation", "store"} & asked.keys()
    assert not {"verbosity", "service_tier", "prompt_cache_key"} & asked.keys(), "vLLM has no use for them"
    assert (got.temperature, got.top_p, got.parallel_tool_calls, got.truncation) == (0.2, 0.5, False, "disabled")


@pytest.mark.parametrize(
    ("truncation", "tokens", "reported"),
    [(None, None, "disabled"), ("disabled", None, "disabled"), ("auto", -1, "auto")],
)
async def test_the_engine_is_asked_to_truncate(
    http: httpx.AsyncClient, engine: ScriptedEngine, truncation: str | None, tokens: int | None, reported: str
) -> None:
    body = {"model": "auto", "input": IN_CHAT, "truncation": truncation}

    response = await http.post("/v1/responses", json=body)

    assert engine.bodies[-1].get("truncate_prompt_tokens") == tokens
    assert response.json()["truncation"] == reported


@pytest.mark.parametrize("store", [None, False, True])
async def test_nothing_is_stored_and_the_response_says_so(http: httpx.AsyncClient, store: bool | None) -> None:
    got = (await http.post(URL, json=asking(store=store))).json()
    assert got["store"] is False
    error = shapes.error(await http.get(f"{URL}/{got['id']}"))
    assert error["code"] == "unknown_route"


async def test_the_last_message_determines_the_task(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    messages: list[Any] = [{"role": "user", "content": IN_CHAT}, {"role": "assistant", "content": "Well."}]
    raw = await client.responses.with_raw_response.create(
        model="auto", input=[*messages, {"role": "user", "content": IN_POLICY}]
    )
    assert raw.headers["x-pointsman-task"] == "policy"


# -- what goes wrong


IMAGE = [{"type": "input_image", "image_url": "x"}]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
    ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
    ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
    ({"background": True}, "unsupported_parameter", "background"),
    ({"tools": [{"type": "telephone"}]}, "unsupported_tool", "tools[0].type"),
    ({"tools": [NAMESPACE | {"tools": [{"type": "mcp"}]}]}, "unsupported_tool", "tools[0].tools[0].type"),
    ({"tools": [NAMESPACE | {"tools": {}}]}, "bad_parameter", "tools[0].tools"),
    ({"tools": [NAMESPACE | {"tools": [{}] * 129}]}, "too_many_tools", "tools"),  # counted before they are read
    ({"tools": [{}] * 129}, "too_many_tools", "tools"),
    ({"tools": [{"type": "namespace", "tools": []}]}, "bad_parameter", "tools[0].name"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "bad_parameter", "tool_choice"),
    ({"tools": [TOOL, NAMESPACE], "tool_choice": {"type": "function", "name": "x"}}, "bad_parameter", "tool_choice"),
    ({"tools": [{"type": "function"}]}, "bad_parameter", "tools[0].name"),
    ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "unsupported_tool", "tool_choice"),
    ({"text": {"format": {"type": "json_schema"}}}, "bad_parameter", "text.format"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_item", "input[0].type"),
    ({"input": [{"role": "user", "content": IMAGE}]}, "unsupported_content", "input[0].content[0].image_url"),
    ({"input": [{"role": "user", "content": 5}]}, "bad_parameter", "input[0].content"),
    ({"input": [{"content": "x"}]}, "bad_role", "input[0].role"),
    ({"input": [{"role": "robot", "content": "x"}]}, "bad_role", "input[0].role"),
    ({"input": 5}, "bad_parameter", "input"),
    ({"max_tokens": 5}, "unsupported_parameter", "max_tokens"),
    ({"messages": [{"role": "user", "content": "x"}]}, "unsupported_parameter", "messages"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "bad_parameter", "input[0].arguments"),
    ({"input": []}, "empty_messages", "input"),
    ({"n": 2}, "bad_parameter", "n"),
    ({"max_output_tokens": 0}, "bad_parameter", "max_output_tokens"),
    ({"model": "nobody"}, "unknown_model", "model"),
]  # fmt: skip


async def test_unsupported_parameters_are_rejected_by_name(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for body, code, param in REFUSED:
        error = shapes.error(await http.post(URL, json=asking(**body)))
        assert (error["code"], error["param"]) == (code, param), body
    assert engine.bodies == []


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_client_error_is_reported_as_such(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, stream: bool
) -> None:
    engine.refuses(400, TOO_LONG)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="tiny", input="x", stream=stream)
    assert refused.value.code == "context_length_exceeded"


async def test_a_broken_stream_ends_with_an_error_and_with_a_failed_response(
    http: httpx.AsyncClient, client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    engine.says(chunk("Hel"), BREAK)
    text = (await http.post(URL, json=asking(model="tiny", stream=True))).text
    *_, error, failed = [shapes.response_event(event) for event in shapes.events(text)]
    assert (error.type, error.code) == ("error", "engine_unavailable")
    assert (failed.type, failed.response.status, failed.response.error.code) == (
        "response.failed",
        "failed",
        "server_error",
    )
    assert (failed.response.output[0].status, failed.response.output_text) == ("incomplete", "Hel")
    types = [event.type async for event in await client.responses.create(model="tiny", input="x", stream=True)]
    assert types[-2:] == ["error", "response.failed"]


async def test_a_disconnect_stops_the_engine(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(chunk("a"), asyncio.Event())
    stream = await client.responses.create(model="tiny", input="x", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    await until(lambda: engine.running == 0)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)


async def test_feedback_may_name_a_responses_id(http: httpx.AsyncClient) -> None:
    got = await http.post(URL, json=asking())
    assert got.json()["id"] == "resp_" + got.headers["x-pointsman-decision-id"]
    assert json.loads(got.content)["pointsman"]["cost_usd"] == pytest.approx(float(got.headers["x-pointsman-cost-usd"]))
