"""`POST /v1/completions`: a raw prompt for a named model, a conversation for a path; each answer in its shape."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, DONE, ScriptedEngine, answer, chunk, text_answer, text_chunk, usage
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
async def test_a_named_models_engine_reads_the_prompt_as_it_is(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, model: str, known_as: str
) -> None:
    engine.says(*text_answer(" upon", " a time"))
    got = await client.completions.create(
        model=model, prompt="Once", max_tokens=5, echo=False, suffix=".", logprobs=2, best_of=1, seed=3, stop="\n"
    )
    assert engine.paths == [URL]
    assert engine.bodies == [
        {
            "model": known_as, "prompt": "Once", "max_tokens": 5, "echo": False, "suffix": ".", "logprobs": 2,
            "seed": 3, "stop": ["\n"], "stream": True, "stream_options": {"include_usage": True},
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
    def told(text: str, offset: int) -> dict[str, Any]:
        return {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{text: -0.5}], "text_offset": [offset]}

    engine.says(
        text_chunk("a", logprobs=told("a", 0)), text_chunk("b", logprobs=told("b", 1), finish="length"), usage(), DONE
    )
    got = shapes.completion((await http.post(URL, json={"model": "tiny", "prompt": "x", "logprobs": 1})).json())
    logprobs = got.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset, got.choices[0].finish_reason) == (["a", "b"], [0, 1], "length")


async def test_several_choices_stay_apart(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(
        text_chunk("b", index=1), text_chunk("a"), text_chunk("B", index=1, finish="stop"),
        text_chunk("A", finish="length"), usage(), DONE,
    )  # fmt: skip
    got = await client.completions.create(model="tiny", prompt="x", n=2)
    assert [(c.index, c.text, c.finish_reason) for c in got.choices] == [(0, "aA", "length"), (1, "bB", "stop")]


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


async def test_a_conversations_logprobs_are_told_in_the_older_shape(
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


@pytest.mark.parametrize("beside", [{"echo": True}, {"suffix": "."}, {"best_of": 3}])
async def test_a_path_refuses_what_only_a_raw_prompt_can_have(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, beside: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model="auto", prompt=IN_CHAT, **beside)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", next(iter(beside)))
    assert engine.bodies == []


# -- both


@pytest.mark.parametrize("model", ["auto", "tiny"])
@pytest.mark.parametrize("include_usage", [False, True])
async def test_every_chunk_has_the_published_shape(
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


async def test_the_clients_stream(client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine) -> None:
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


async def test_a_client_that_hangs_up_stops_the_engine(
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
    ({"model": "tiny", "prompt": " \n"}, "empty_prompt", "prompt"),
    ({"model": "tiny", "prompt": []}, "empty_prompt", "prompt"),
    ({"model": "tiny", "prompt": ["a", "b"]}, "unsupported_prompt", "prompt"),
    ({"model": "tiny", "prompt": [1, 2]}, "unsupported_prompt", "prompt"),
    ({"model": "tiny", "prompt": [[1], [2]]}, "unsupported_prompt", "prompt"),
    ({"model": "tiny", "prompt": "x", "stop": list("abcde")}, "bad_parameter", "stop"),
    ({"model": "path:small_talk", "prompt": "x", "max_tokens": 0}, "bad_parameter", "max_tokens"),
    ({"model": "tiny", "prompt": "x", "max_tokens": -1}, "bad_parameter", "max_tokens"),
    ({"model": "tiny", "prompt": "x", "max_completion_tokens": "many"}, "bad_parameter", "max_completion_tokens"),
    ({"prompt": "x"}, "missing_model", "model"),
]


async def test_what_cannot_be_done_is_refused_by_name(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for body, code, param in REFUSED:
        told = shapes.error(await http.post(URL, json=body))
        assert (told["type"], told["code"], told["param"]) == ("invalid_request_error", code, param), body
    half = b'{"model": "tiny", "prompt": "\\ud800"}'
    told = shapes.error(await http.post(URL, content=half, headers={"content-type": "application/json"}))
    assert (told["code"], told["param"]) == ("bad_text", "prompt")
    assert engine.bodies == []


async def test_prompt_and_conversation_are_priced_alike(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*text_answer("a", "b"))
    raw = (await http.post(URL, json={"model": "tiny", "prompt": IN_TRIAGE})).json()
    assert raw["usage"]["total_tokens"] == 22
    assert raw["pointsman"]["cost_usd"] == pytest.approx((20 * 1.0 + 2 * 4.0) / 1e6)
    assert gateway.metric("pointsman_tokens_total", type="completion") == 2
