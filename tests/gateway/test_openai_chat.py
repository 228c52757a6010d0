"""Chat completions field by field: what OpenAI's client sends and reads; every answer conforms to the published
types."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import DONE, ScriptedEngine, Step, answer, chunk, text_answer, usage
from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.openai_clients import as_vllm, in_a_thread, opening_client

CHAT = "/v1/chat/completions"
USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": IN_CHAT}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "refund", "strict": True, "parameters": {"type": "object", "properties": {}}},
    }
]


class Lost(BaseModel):
    item: str
    train: int


def asking(**more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": USER, **more}


def calling(index: int, name: str, *arguments: str) -> list[Step]:
    """Returns the events of one tool call, whose arguments are sent in pieces."""
    head = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
    return [chunk(tool_calls=[piece]) for piece in (head, *pieces)]


def token(text: str) -> dict[str, Any]:
    top = {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
    return {**top, "top_logprobs": [top, {**top, "token": "other", "logprob": -2.5}]}


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with opening_client(gateway) as client:
        yield client


SCRIPTS: dict[str, list[Step]] = {
    "text": answer("Hello", " you"),
    "one that is cut off": answer("Hello", finish="length"),
    "a filtered one": answer("Hello", finish="content_filter"),
    "an empty one": [chunk("", finish="stop"), usage(), DONE],
    "tools": [
        *calling(0, "refund", '{"book', 'ing": 1}'), *calling(1, "notify", "{}"), chunk(finish="tool_calls"), usage(),
        DONE,
    ],
    "text, then a tool": [chunk("Wait."), *calling(0, "refund", "{}"), chunk(finish="tool_calls"), usage(), DONE],
    "logprobs": [
        chunk("Hi", logprobs={"content": [token("Hi")]}), chunk("!", logprobs={"content": [token("!")]}, finish="stop"),
        usage(), DONE,
    ],
    "two choices": [
        chunk("b", index=1), chunk("a"), chunk("B", index=1, finish="stop"), chunk("A", finish="length"), usage(), DONE,
    ],
    "a refusal": [chunk(refusal="I will "), chunk(refusal="not."), chunk(finish="stop"), usage(), DONE],
    "thoughts": [chunk(reasoning="Hm"), chunk(reasoning_content="m."), chunk("Yes", finish="stop"), usage(), DONE],
}  # fmt: skip


@pytest.mark.parametrize("vllm", [False, True], ids=["bare", "vllm"])
async def test_every_answer_and_every_chunk_conforms_to_the_published_type(
    http: httpx.AsyncClient, engine: ScriptedEngine, vllm: bool
) -> None:
    for name, script in SCRIPTS.items():
        engine.says(*(as_vllm(script) if vllm else script))
        choices = {"n": 2} if name == "two choices" else {}
        plain = await http.post(CHAT, json=asking(**choices))
        assert plain.status_code == 200, name
        shapes.chat_completion(plain.json())
        for options in ({}, {"stream_options": {"include_usage": True}}):
            streamed = await http.post(CHAT, json=asking(stream=True, **choices, **options))
            chunks = [shapes.chat_chunk(event) for event in shapes.events(streamed.text)]
            assert streamed.text.endswith("data: [DONE]\n\n"), name
            assert len({(c.id, c.created, c.model) for c in chunks}) == 1, name


@pytest.mark.parametrize("vllm", [False, True], ids=["bare", "vllm"])
async def test_with_usage_requested_every_other_chunk_has_usage_null(
    http: httpx.AsyncClient, engine: ScriptedEngine, vllm: bool
) -> None:
    script = answer("a", 'b "usage":', "c")
    engine.says(*(as_vllm(script) if vllm else script))
    events = shapes.events(
        (await http.post(CHAT, json=asking(stream=True, stream_options={"include_usage": True}))).text
    )
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["usage"]["total_tokens"] == 23
    without = shapes.events((await http.post(CHAT, json=asking(stream=True))).text)
    assert all("usage" not in event for event in without)


async def test_the_streaming_client_assembles_parallel_tool_calls(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    engine.says(*SCRIPTS["tools"])
    async with client.chat.completions.stream(model="auto", messages=USER, tools=TOOLS) as stream:
        got = await stream.get_final_completion()
    calls = got.choices[0].message.tool_calls
    assert calls is not None
    assert [(c.id, c.function.name, c.function.arguments) for c in calls] == [
        ("call_0", "refund", '{"booking": 1}'),
        ("call_1", "notify", "{}"),
    ]
    assert got.choices[0].finish_reason == "tool_calls"
    assert engine.bodies[-1]["tools"] == TOOLS


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_structured_answer_is_parsed_by_the_client(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, streamed: bool
) -> None:
    engine.says(*answer('{"item": "umb', 'rella", "train": 915}'))
    if streamed:
        async with client.chat.completions.stream(model="auto", messages=USER, response_format=Lost) as stream:
            got = await stream.get_final_completion()
    else:
        got = await client.chat.completions.parse(model="auto", messages=USER, response_format=Lost)
    assert got.choices[0].message.parsed == Lost(item="umbrella", train=915)
    asked = engine.bodies[-1]["response_format"]
    assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == (
        "json_schema",
        "Lost",
        True,
    )


async def test_a_refusal_is_a_separate_field(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(*SCRIPTS["a refusal"])
    got = await client.chat.completions.parse(model="auto", messages=USER, response_format=Lost)
    message = got.choices[0].message
    assert (message.refusal, message.content, message.parsed) == ("I will not.", None, None)


async def test_logprobs_come_with_their_alternatives(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(*SCRIPTS["logprobs"])
    got = await client.chat.completions.create(model="auto", messages=USER, logprobs=True, top_logprobs=2)
    logprobs = got.choices[0].logprobs
    assert logprobs is not None
    assert [(t.token, [top.token for top in t.top_logprobs]) for t in logprobs.content or ()] == [
        ("Hi", ["Hi", "other"]),
        ("!", ["!", "other"]),
    ]
    assert (engine.bodies[-1]["logprobs"], engine.bodies[-1]["top_logprobs"]) == (True, 2)


async def test_a_models_reasoning_reaches_the_client(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(chunk(reasoning_content="Hm"), chunk(reasoning_content="m."), *answer("Yes"))
    message = (await client.chat.completions.create(model="auto", messages=USER)).choices[0].message
    assert (message.content, (message.model_extra or {})["reasoning_content"]) == ("Yes", "Hmm.")


async def test_the_engines_own_parameters_are_sent_unchanged(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    passed: dict[str, Any] = {
        "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"42": -100}, "n": 2, "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "refund"}}, "parallel_tool_calls": False,
        "reasoning_effort": "low",
    }  # fmt: skip
    further = {
        "top_k": 7,
        "structured_outputs": {"regex": "[a-z]+"},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    dropped: dict[str, Any] = {
        "service_tier": "flex", "prompt_cache_key": "k", "safety_identifier": "s", "verbosity": "low", "store": True,
    }  # fmt: skip
    sampled: dict[str, Any] = {"seed": 7, "stop": ["END", "STOP"], "temperature": 0.3, "top_p": 0.9}
    await client.chat.completions.create(
        model="auto", messages=USER, max_completion_tokens=9, extra_body=further, **passed, **sampled, **dropped
    )
    asked = engine.bodies[-1]
    assert {name: asked[name] for name in passed} == passed
    assert {name: asked[name] for name in further} == further
    assert {name: asked[name] for name in sampled} == sampled
    assert asked["max_tokens"] == 9
    assert not {"metadata", "user", *dropped} & asked.keys(), "vLLM has no use for them"


async def test_unknown_fields_of_the_engine_reach_the_client(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    steps: list[Step] = [
        {
            "system_fingerprint": "fp_7", "service_tier": "flex",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": end, "stop_reason": why}],
        }
        for text, end, why in (("Hel", None, None), ("lo", "stop", "END"))
    ]  # fmt: skip
    engine.says(*as_vllm([*steps, usage(), DONE]))

    plain = (await http.post(CHAT, json=asking())).json()
    streamed = shapes.events((await http.post(CHAT, json=asking(stream=True))).text)

    for body in (plain, *streamed[:2]):
        assert (body["system_fingerprint"], body["service_tier"]) == ("fp_7", "flex")
    assert plain["choices"][0]["stop_reason"] == "END"
    assert [event["choices"][0]["stop_reason"] for event in streamed[:2]] == [None, "END"]


async def test_an_answer_names_the_model_and_the_configuration_behind_it(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    async def fingerprints(model: str) -> list[str]:
        """Returns the fingerprints in a plain answer, in a stream's first chunk, and in its chunk with the usage."""
        plain = (await http.post(CHAT, json=asking(model=model))).json()
        body = asking(model=model, stream=True, stream_options={"include_usage": True})
        streamed = shapes.events((await http.post(CHAT, json=body)).text)
        return [event["system_fingerprint"] for event in (plain, streamed[0], streamed[-1])]

    first = await fingerprints("tiny")
    assert len(set(first)) == 1
    assert first[0].startswith("fp_")
    assert await fingerprints("tiny") == first
    assert await fingerprints("path:small_talk") != first
    completion = {"model": "tiny", "prompt": "x"}
    engine.says(*text_answer("x"))
    assert (await http.post("/v1/completions", json=completion)).json()["system_fingerprint"] == first[0]


async def test_a_developer_message_is_treated_as_system_message(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    messages: list[Any] = [{"role": "developer", "content": "Be brief."}, *USER]
    await client.chat.completions.create(model="tiny", messages=messages)
    assert engine.bodies[-1]["messages"][0] == {"role": "system", "content": "Be brief."}


async def test_an_image_is_rejected_with_a_clear_message(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    parts: list[Any] = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
    ]
    with pytest.raises(openai.BadRequestError, match="takes text, and no image and no url") as refused:
        await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": parts}])
    assert (refused.value.code, refused.value.param) == ("unsupported_content", "messages")
    assert engine.bodies == []


async def test_the_synchronous_client_streams_and_parses(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.says(*answer('{"item": "hat", ', '"train": 3}'))

    def ask(client: openai.OpenAI) -> tuple[str, Lost | None]:
        parsed = client.chat.completions.parse(model="auto", messages=USER, response_format=Lost)
        stream = client.chat.completions.create(model="auto", messages=USER, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in stream), parsed.choices[0].message.parsed

    assert await in_a_thread(gateway, ask) == ('{"item": "hat", "train": 3}', Lost(item="hat", train=3))
