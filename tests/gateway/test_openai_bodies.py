"""Bodies that conform to OpenAI's types are accepted; numbers that JSON does not allow are rejected with their
position."""

from typing import Any

import httpx
import pytest
from pointsman_gateway.config.providers import preset_of, request_fields
from pointsman_servicekit.errors import InvalidArgument

from tests.gateway.doubles.api_clients import open_api_client
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import DONE, ScriptedEngine, answer, text_answer, usage
from tests.gateway.doubles.gateway import Gateway

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = (
    f"/v1/{name}" for name in ("chat/completions", "completions", "responses", "embeddings")
)
USER = {"role": "user", "content": IN_CHAT}
CALL = {"name": "find", "arguments": "{}"}


def chat(*before: Any, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [*before, USER], **more}


TAKEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (CHAT, chat(stream=None), {}),
    (CHAT, chat(stream_options={"include_usage": None}), {}),
    (CHAT, chat(stream_options=None), {}),
    (CHAT, chat(seed=-1), {"seed": -1}),
    (CHAT, chat(seed=-(2**63), tool_choice="none"), {"seed": -(2**63), "tool_choice": "none"}),
    (COMPLETIONS, {"model": "auto", "prompt": "Hi", "stream": None, "seed": -1}, {"seed": -1}),
    (COMPLETIONS, {"model": "auto", "prompt": "Hi", "stream_options": {"include_usage": None}}, {}),
    (RESPONSES, {"model": "auto", "input": [{**USER, "type": None}]}, {}),
    (RESPONSES, {"model": "auto", "input": IN_CHAT, "context_management": [{"type": "compaction"}],
                 "access_programs": {"cyber": "standard"}, "background_options": {"completion_window": "2h"},
                 "image": {"context_compression": "auto"}}, {}),
    (CHAT, chat(audio=None, moderation=None, web_search_options=None), {}),
    ("/v1/route", chat(stream=None, seed=-1), {}),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body", "sent"), TAKEN)
async def test_bodies_allowed_by_openais_types_are_accepted(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, body: dict[str, Any], sent: dict[str, Any]
) -> None:
    engine.says(*answer("Hello"))
    got = await http.post(route, json=body)
    assert (got.status_code, got.headers["content-type"]) == (200, "application/json"), got.text
    if route != "/v1/route":
        asked = engine.bodies[-1]
        assert asked["messages"][-1] == {"role": "user", "content": body.get("prompt", IN_CHAT)}
        assert {name: asked[name] for name in sent} == sent


CHANGES_THE_ANSWER: list[tuple[str, Any, str]] = [
    ("audio", {"voice": "alloy", "format": "wav"}, "answers are text"),
    ("moderation", {"model": "omni-moderation-latest"}, "guardrails"),
    ("web_search_options", {}, "use a function"),
]


@pytest.mark.parametrize("provider", ["vllm", "openai", "anthropic", "openai-compatible"])
def test_a_field_that_would_change_the_answer_is_refused_with_advice(provider: str) -> None:
    fields = request_fields(preset_of(provider).request_fields)
    for name, value, advice in CHANGES_THE_ANSWER:
        with pytest.raises(InvalidArgument, match=f"'{name}' cannot be set by a request.*{advice}"):
            fields.select({name: value})


async def test_an_earlier_refusal_and_an_older_tools_result_reach_the_engine(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    refused = {
        "role": "assistant",
        "content": [{"type": "text", "text": "No."}, {"type": "refusal", "refusal": "Never."}],
    }
    called = {"role": "assistant", "content": None, "function_call": CALL}
    result = {"role": "function", "name": "find", "content": "4"}
    engine.says(*answer("Hello"))
    assert (await http.post(CHAT, json=chat(refused, called, result))).status_code == 200
    assert engine.bodies[-1]["messages"][-4:-1] == [
        {"role": "assistant", "content": "No.\nNever."}, {**called, "content": ""}, result,
    ]  # fmt: skip


async def test_max_tokens_of_zero_is_accepted_for_a_named_model_only(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    asked = {"prompt": "Hello there", "max_tokens": 0, "echo": True, "logprobs": 0}
    engine.says(*text_answer("Hello there")[:1], usage(2, 0), DONE)
    got = await http.post(COMPLETIONS, json={**asked, "model": "tiny"})
    assert (got.status_code, got.json()["usage"]["completion_tokens"]) == (200, 0), got.text
    assert (engine.bodies[-1]["max_tokens"], engine.bodies[-1]["echo"]) == (0, True)
    refused = await http.post(COMPLETIONS, json={"prompt": "Hi", "max_tokens": 0, "model": "auto"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")


INFINITE: list[tuple[str, str, str]] = [
    (CHAT, '"logit_bias": {"5": NaN}', "logit_bias.5"),
    (CHAT, '"top_k": Infinity', "top_k"),
    (CHAT, '"tools": [{"type": "function", "function": {"parameters": {"maximum": 1e999}}}]',
     "tools[0].function.parameters.maximum"),
    (CHAT, '"temperature": NaN', "temperature"),
    (CHAT, '"messages": [{"role": "user", "content": "x", "weight": -1e999}]', "messages[0].weight"),
    (COMPLETIONS, '"prompt": "x", "min_p": -Infinity', "min_p"),
    (COMPLETIONS, '"prompt": "x", "top_p": Infinity', "top_p"),
    (RESPONSES, '"input": "x", "top_k": 1e400', "top_k"),
    (EMBEDDINGS, '"input": "x", "scale": NaN', "scale"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "written", "param"), INFINITE)
async def test_a_number_that_json_does_not_allow_is_rejected_with_its_position(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, written: str, param: str
) -> None:
    messages = (
        '"messages": [{"role": "user", "content": "x"}], ' if route == CHAT and '"messages"' not in written else ""
    )
    as_json = {"content-type": "application/json"}
    got = await http.post(route, content=f'{{"model": "tiny", {messages}{written}}}', headers=as_json)
    assert (got.status_code, got.json()["error"]["param"], engine.bodies) == (400, param, []), got.text


async def test_the_same_numbers_are_rejected_over_grpc(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello"))
    async with open_api_client("grpc", gateway.url, gateway.grpc_address) as api:
        with pytest.raises(InvalidArgument, match=r"'extra_json\.top_k' is no number that JSON has") as refused:
            await api.ask(IN_CHAT, top_k=float("inf"))
        assert (refused.value.param, engine.bodies) == ("extra_json.top_k", [])
        await api.ask(IN_CHAT, seed=-1)
        assert engine.bodies[-1]["seed"] == -1
