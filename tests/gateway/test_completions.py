"""`POST /v1/completions`: a raw prompt for a named model, or a conversation for a path."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import openai
import pytest
from pointsman_gateway.http.dialects.openai.completions import CompletionBody
from pointsman_gateway.metering.token_estimates import estimate_total_tokens
from pointsman_gateway.pipeline.batch import MAX_CONCURRENT_RUNS

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import (
    BREAK,
    DONE,
    TOO_LONG,
    Refusal,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    text_answer,
    text_chunk,
    usage,
)
from tests.gateway.doubles.gateway import TRIAGE, Gateway
from tests.gateway.doubles.openai_clients import in_a_thread, opening_client
from tests.gateway.doubles.waiting import until

URL = "/v1/completions"


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with opening_client(gateway) as client:
        yield client


# -- of a model or an adapter by its name


@pytest.mark.parametrize(("model", "known_as"), [("tiny", "tiny"), ("triage@prod", TRIAGE)])
async def test_a_named_models_engine_gets_the_raw_prompt(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, model: str, known_as: str
) -> None:
    engine.says(*text_answer(" upon", " a time"))
    got = await client.completions.create(
        model=model, prompt="Once", max_tokens=5, echo=False, suffix=".", logprobs=2, best_of=1, seed=3, stop="\n"
    )
    assert engine.paths == [URL]
    of_its_path = {"temperature": 0} if "@" in model else {}
    assert engine.bodies == [
        {
            "model": known_as, "prompt": "Once", "max_tokens": 5, "echo": False, "suffix": ".", "logprobs": 2,
            "seed": 3, "stop": ["\n"], "stream": True, "stream_options": {"include_usage": True}, **of_its_path,
        }
    ]  # fmt: skip
    assert (got.choices[0].text, got.choices[0].finish_reason, got.model) == (" upon a time", "stop", known_as)
    assert got.usage is not None
    assert got.usage.total_tokens == 22


async def test_a_list_of_one_prompt_is_that_prompt(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(*text_answer("x"))
    await client.completions.create(model="tiny", prompt=["Once"])
    assert engine.bodies[0]["prompt"] == "Once"


async def test_an_engines_logprobs_are_joined(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    def logprobs_of(text: str, offset: int) -> dict[str, Any]:
        return {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{text: -0.5}], "text_offset": [offset]}

    engine.says(
        text_chunk("a", logprobs=logprobs_of("a", 0)),
        text_chunk("b", logprobs=logprobs_of("b", 1), finish="length"),
        usage(),
        DONE,
    )
    got = shapes.completion((await http.post(URL, json={"model": "tiny", "prompt": "x", "logprobs": 1})).json())
    logprobs = got.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset, got.choices[0].finish_reason) == (["a", "b"], [0, 1], "length")


async def test_several_choices_are_kept_separate(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(
        text_chunk("b", index=1), text_chunk("a"), text_chunk("B", index=1, finish="stop"),
        text_chunk("A", finish="length"), usage(), DONE,
    )  # fmt: skip
    got = await client.completions.create(model="tiny", prompt="x", n=2)
    assert [(c.index, c.text, c.finish_reason) for c in got.choices] == [(0, "aA", "length"), (1, "bB", "stop")]


# -- several prompts and token ids


@pytest.mark.parametrize("prompt", [["Once", "Twice"], [1, 2, 3], [[1, 2], [3]]])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_named_models_engine_gets_all_prompts_in_one_call(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, prompt: Any, stream: bool
) -> None:
    engine.says(
        text_chunk("c", index=2), text_chunk("a"), text_chunk("b", index=1), text_chunk("d", index=3, finish="stop"),
        text_chunk("C", index=2, finish="length"), text_chunk("B", index=1, finish="stop"),
        text_chunk("A", finish="stop"), usage(30, 7), DONE,
    )  # fmt: skip
    create: Any = client.completions.create  # its overloads know no variable arguments
    n = 4 if prompt == [1, 2, 3] else 2  # these are the token ids of one prompt
    asked: dict[str, Any] = {"model": "tiny", "prompt": prompt, "n": n, "max_tokens": 4}
    choices: dict[int, tuple[str, str | None]] = {}
    if stream:
        options = {"include_usage": True}
        async for part in await create(**asked, stream=True, stream_options=options):
            for choice in part.choices:
                text, reason = choices.get(choice.index, ("", None))
                choices[choice.index] = (text + choice.text, choice.finish_reason or reason)
            used = part.usage
    else:
        whole = await create(**asked)
        choices, used = {c.index: (c.text, c.finish_reason) for c in whole.choices}, whole.usage
    assert choices == {0: ("aA", "stop"), 1: ("bB", "stop"), 2: ("cC", "length"), 3: ("d", "stop")}
    assert used is not None
    assert (used.prompt_tokens, used.completion_tokens) == (30, 7)
    assert [(body["prompt"], body["n"]) for body in engine.bodies] == [(prompt, n)]


def test_tokens_are_estimated_for_all_choices_of_all_prompts() -> None:
    def estimate(**fields: Any) -> int:
        (request,) = CompletionBody(model="tiny", max_tokens=10, **fields).to_requests(1.0)
        return estimate_total_tokens(request)

    assert estimate(prompt="x") == 10
    assert estimate(prompt=["x", "y"]) == 20
    assert estimate(prompt=["x" * 40, "y" * 40], n=3) == 80
    assert estimate(prompt=[[5] * 100, [6] * 100]) >= 199 + 20


async def test_each_prompt_of_a_list_has_its_own_decision_and_receipt(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    """The answers arrive in another order than the prompts."""
    second = asyncio.Event()

    def script(body: Mapping[str, Any]) -> list[Step]:
        last = body["messages"][-1]["content"]
        if last == IN_CHAT:
            return [chunk("first "), second, chunk("talk", finish="stop"), usage(10, 2), DONE]
        second.set()
        return [chunk("sorted", finish="stop"), usage(20, 1), DONE]

    engine.script = script
    raw = await client.completions.with_raw_response.create(model="auto", prompt=[IN_CHAT, IN_TRIAGE])
    got = raw.parse()
    assert [(c.index, c.text, c.finish_reason) for c in got.choices] == [
        (0, "first talk", "stop"),
        (1, "sorted", "stop"),
    ]
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (30, 3)
    details = got.model_extra["pointsman"]  # type: ignore[index]  # the gateway always adds it
    paths = [part["path"] for part in details["prompts"]]
    assert paths[0] == raw.headers["x-pointsman-path"] == "small_talk"
    assert paths[1] != "small_talk"
    assert details["prompts"][0]["decision_id"] == raw.headers["x-pointsman-decision-id"]
    assert details["cost_usd"] == pytest.approx(sum(part["cost_usd"] for part in details["prompts"]))
    assert float(raw.headers["x-pointsman-cost-usd"]) == pytest.approx(details["cost_usd"])
    assert gateway.metric("pointsman_requests_total", outcome="ok") == 2


async def test_a_long_list_of_prompts_is_answered_a_few_at_a_time(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    most = 0

    def script(body: Mapping[str, Any]) -> list[Step]:
        nonlocal most
        most = max(most, engine.running + 1)
        return answer(body["messages"][-1]["content"])

    engine.script = script
    prompts = [f"hello {number}" for number in range(40)]
    stream = await client.completions.create(model="path:small_talk", prompt=prompts, stream=True)
    texts = dict.fromkeys(range(40), "")
    async for part in stream:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == prompts
    assert most <= MAX_CONCURRENT_RUNS
    assert gateway.metric("pointsman_requests_total", outcome="ok") == 40


async def test_choices_of_several_prompts_are_numbered_consecutively(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    def script(body: Mapping[str, Any]) -> list[Step]:
        text = body["messages"][-1]["content"]
        return [chunk(text + "0", finish="stop"), chunk(text + "1", index=1, finish="stop"), usage(5, 2), DONE]

    engine.script = script
    got = await client.completions.create(model="path:small_talk", prompt=["a", "b"], n=2)
    assert [(c.index, c.text) for c in got.choices] == [(0, "a0"), (1, "a1"), (2, "b0"), (3, "b1")]


async def test_the_first_error_ends_a_list_of_prompts(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.script = lambda body: (
        Refusal(400, TOO_LONG) if body["messages"][-1]["content"] == "b" else [chunk("a"), asyncio.Event()]
    )
    body = {"model": "path:small_talk", "prompt": ["a", "b", *"cdefghijklmn"]}
    error = shapes.error(await http.post(URL, json=body))
    assert error["code"] == "context_length_exceeded"
    await until(lambda: engine.running == 0)
    streamed = await http.post(URL, json={**body, "stream": True})
    assert shapes.events(streamed.text)[-1]["error"]["code"] == "context_length_exceeded"
    await until(lambda: engine.running == 0)


async def test_a_client_that_disconnects_stops_all_prompts(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(chunk("a"), asyncio.Event())
    stream = await client.completions.create(model="path:small_talk", prompt=["a", "b", "c"], stream=True)
    await anext(stream)
    await until(lambda: engine.running == 3)
    await stream.close()
    await until(lambda: engine.running == 0)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 3)


# -- of a path


async def test_a_path_answers_a_prompt_as_a_conversation(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    raw = await client.completions.with_raw_response.create(model="auto", prompt=IN_CHAT)
    assert raw.headers["x-pointsman-path"] == "small_talk"
    assert raw.parse().choices[0].text == "Hello there"
    assert engine.paths == ["/v1/chat/completions"]
    assert engine.bodies[0]["messages"] == [
        {"role": "system", "content": "You are Wren."},
        {"role": "user", "content": IN_CHAT},
    ]


async def test_a_conversations_logprobs_are_converted_to_the_completions_format(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    def token(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": text, "logprob": -0.5}]}

    engine.says(
        chunk("Hé", logprobs={"content": [token("Hé")]}),
        chunk("llo", logprobs={"content": [token("l"), token("lo")]}, finish="tool_calls"), usage(), DONE,
    )  # fmt: skip
    body = {"model": "path:small_talk", "prompt": "x", "logprobs": 1}
    got = shapes.completion((await http.post(URL, json=body)).json())
    assert (engine.bodies[0]["logprobs"], engine.bodies[0]["top_logprobs"]) == (True, 1)
    logprobs = got.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["Hé", "l", "lo"], [0, 2, 3])
    assert logprobs.top_logprobs == [{"Hé": -0.5}, {"l": -0.5}, {"lo": -0.5}]
    assert got.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("alternative", [{"token": "b"}, {"token": "b", "logprob": None}])
async def test_alternatives_without_a_logprob_are_left_out(
    http: httpx.AsyncClient, engine: ScriptedEngine, alternative: dict[str, Any]
) -> None:
    token = {"token": "a", "top_logprobs": [alternative, {"token": "c", "logprob": -0.5}]}
    engine.says(chunk("a", logprobs={"content": [token]}, finish="stop"), usage(), DONE)
    body = {"model": "path:small_talk", "prompt": "x", "logprobs": 1}
    plain = (await http.post(URL, json=body)).json()
    event, *_ = shapes.events((await http.post(URL, json={**body, "stream": True})).text)
    for got in (plain, event):
        assert got["choices"][0]["logprobs"] == {
            "tokens": ["a"], "token_logprobs": [None], "top_logprobs": [{"c": -0.5}], "text_offset": [0],
        }  # fmt: skip


@pytest.mark.parametrize("beside", [{"echo": True}, {"suffix": "."}, {"best_of": 3}])
async def test_a_path_rejects_options_of_raw_prompts(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, beside: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model="auto", prompt=IN_CHAT, **beside)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", next(iter(beside)))
    assert engine.bodies == []


# -- both


@pytest.mark.parametrize("model", ["auto", "tiny"])
@pytest.mark.parametrize("include_usage", [False, True])
async def test_every_chunk_conforms_to_the_published_type(
    http: httpx.AsyncClient, engine: ScriptedEngine, model: str, include_usage: bool
) -> None:
    engine.says(*(text_answer("a", "b") if model == "tiny" else answer("a", "b")))
    body = {"model": model, "prompt": IN_CHAT, "stream": True, "stream_options": {"include_usage": include_usage}}
    streamed = await http.post(URL, json=body)
    assert streamed.headers["x-pointsman-decision-id"]
    assert streamed.text.endswith("data: [DONE]\n\n")
    events = shapes.events(streamed.text)
    chunks = [shapes.completion(event, chunk=True) for event in events]
    assert "".join(c.text for event in chunks for c in event.choices) == "ab"
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    if include_usage:
        assert all(event["usage"] is None for event in events[:-1])
        assert (events[-1]["choices"], events[-1]["usage"]["completion_tokens"]) == ([], 2)
        assert events[-1]["pointsman"]["cost_usd"] > 0


async def test_the_client_reads_the_stream(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*text_answer("a", "b"))
    streamed = [c.choices[0].text async for c in await client.completions.create(model="tiny", prompt="x", stream=True)]
    assert streamed == ["a", "b"]

    def ask(client: openai.OpenAI) -> list[str]:
        return [c.choices[0].text for c in client.completions.create(model="tiny", prompt="x", stream=True)]

    assert await in_a_thread(gateway, ask) == streamed


async def test_a_broken_stream_ends_with_an_error(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(text_chunk("a"), BREAK)
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    assert (await anext(stream)).choices[0].text == "a"
    with pytest.raises(openai.APIError, match="engine 'local' failed"):
        await anext(stream)


async def test_a_disconnect_stops_the_engine(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(text_chunk("a"), asyncio.Event())
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    await anext(stream)
    await stream.close()
    await until(lambda: engine.running == 0)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "tiny"}, "empty_prompt", "prompt"),
    ({"model": "tiny", "prompt": ""}, "empty_prompt", "prompt"),
    ({"model": "tiny", "prompt": []}, "empty_prompt", "prompt"),
    ({"model": "tiny", "prompt": ["a", ""]}, "empty_prompt", "prompt"),
    ({"model": "tiny", "prompt": [[1], []]}, "empty_prompt", "prompt"),
    ({"model": "auto", "prompt": [1, 2]}, "unsupported_prompt", "prompt"),
    ({"model": "path:small_talk", "prompt": [[1], [2]]}, "unsupported_prompt", "prompt"),
    ({"model": "tiny", "prompt": ["a"] * 129}, "too_many_prompts", "prompt"),
    ({"model": "auto", "prompt": ["a"] * 65, "n": 2}, "too_many_prompts", "prompt"),
    ({"model": "tiny", "prompt": ["a", "b"], "n": 0}, "bad_parameter", "n"),
    ({"model": "auto", "prompt": ["a", "b"], "n": "many"}, "bad_parameter", "n"),
    ({"model": "tiny", "prompt": [1, -2]}, "bad_parameter", "prompt"),
    ({"model": "tiny", "prompt": [1, 2**31]}, "bad_parameter", "prompt"),
    ({"model": "tiny", "prompt": [True]}, "bad_parameter", "prompt"),
    ({"model": "tiny", "prompt": ["a", [1]]}, "bad_parameter", "prompt"),
    ({"model": "tiny", "prompt": "x", "stop": list("abcde")}, "bad_parameter", "stop"),
    ({"model": "path:small_talk", "prompt": "x", "max_tokens": 0}, "bad_parameter", "max_tokens"),
    ({"model": "tiny", "prompt": "x", "max_tokens": -1}, "bad_parameter", "max_tokens"),
    ({"model": "tiny", "prompt": "x", "max_completion_tokens": "many"}, "bad_parameter", "max_completion_tokens"),
    ({"prompt": "x"}, "missing_model", "model"),
]


async def test_unsupported_parameters_are_rejected_by_name(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for body, code, param in REFUSED:
        error = shapes.error(await http.post(URL, json=body))
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param), body
    half = b'{"model": "tiny", "prompt": "\\ud800"}'
    error = shapes.error(await http.post(URL, content=half, headers={"content-type": "application/json"}))
    assert (error["code"], error["param"]) == ("bad_text", "prompt")
    assert engine.bodies == []


async def test_prompt_and_conversation_have_equal_prices(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*text_answer("a", "b"))
    raw = (await http.post(URL, json={"model": "tiny", "prompt": IN_TRIAGE})).json()
    assert raw["usage"]["total_tokens"] == 22
    assert raw["pointsman"]["cost_usd"] == pytest.approx((20 * 1.0 + 2 * 4.0) / 1e6)
    assert gateway.metric("pointsman_tokens_total", type="completion") == 2
