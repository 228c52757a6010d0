"""With no key can a client send fields to the engine that belong to the operator."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman.v1 import lora_server_pb2 as pb_lora
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.gateway.doubles.engine import ScriptedEngine, answer, running_engine, text_answer
from tests.gateway.doubles.gateway import TRIAGE
from tests.gateway.doubles.lora_server import READY
from tests.security.http_client import post
from tests.security.keyed_gateway import CHAT, HELLO, keyed_gateway
from tests.security.target import Addresses

MODELS = ("tiny", "triage@prod", "voice@prod")
OPERATOR_FIELDS: dict[str, Any] = {
    "kv_transfer_params": {"remote_host": "192.0.2.1", "remote_port": 1},
    "ec_transfer_params": {"remote_host": "192.0.2.1"},
    "priority": -100,
    "cache_salt": "guess",
    "request_id": "of another request",
    "session_id": "x",
    "chat_template": "{{ messages }}",
    "vllm_xargs": {"x": 1},
    "logits_processors": ["os.system"],
    "mm_processor_kwargs": {"x": 1},
    "media_io_kwargs": {"x": 1},
    "prompt_embeds": "gASVAA==",
    "best_of": 1000,
    "use_beam_search": True,
    "guided_regex": "a*",
}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": HELLO},
    "/v1/completions": {"model": "tiny", "prompt": "Once"},
    "/v1/responses": {"model": "tiny", "input": "Once"},
}
HARMLESS = {"store": True, "metadata": {"team": "a"}, "user": "u1", "service_tier": "auto", "safety_identifier": "s"}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", OPERATOR_FIELDS)
def test_operator_fields_are_rejected(target: Addresses, path: str, name: str) -> None:
    body = json.dumps({**BODIES[path], name: OPERATOR_FIELDS[name]}).encode()
    answered = post(target.http, path, body, f"authorization: Bearer {target.key}")
    error = json.loads(answered.body)["error"]
    assert (answered.status, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    assert error["message"].startswith(f"'{name}' cannot be set by a request: ")


@pytest.mark.parametrize("name", OPERATOR_FIELDS)
async def test_operator_fields_are_rejected_over_grpc_too(target: Addresses, name: str) -> None:
    sampling = pb.Sampling(extra_json=json.dumps({name: OPERATOR_FIELDS[name]}))
    messages = [pb.Message(role=message["role"], content=message["content"]) for message in HELLO]
    request = pb.GenerateRequest(model="tiny", messages=messages, sampling=sampling)
    async with open_channel(target.grpc) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        metadata = (("authorization", f"Bearer {target.key}"),)
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the next line asserts on it
            await stub.Generate(request, metadata=metadata, timeout=20)
    error = from_rpc_error(caught.value, "gateway")  # type: ignore[arg-type]  # gRPC's own
    assert isinstance(error, InvalidArgument)
    assert (error.code, error.param) == ("unsupported_parameter", name)


def test_a_mistyped_field_gets_a_hint(target: Addresses) -> None:
    for name, hint in {"top_kk": "did you mean 'top_k'?", "x" * 500: "known: add_generation_prompt, "}.items():
        body = json.dumps({**BODIES[CHAT], name: 1}).encode()
        answered = post(target.http, CHAT, body, f"authorization: Bearer {target.key}")
        message = json.loads(answered.body)["error"]["message"]
        assert (answered.status, answered.code) == (400, "unsupported_parameter")
        assert message.startswith(f"unknown field '{name[:100]}'; {hint}")


EXTRA_FIELDS: dict[str, str] = {
    "kv_transfer_params": "'messages[0].kv_transfer_params' cannot be set by a request: it names a server",
    "naem": "unknown field 'messages[0].naem'; did you mean 'name'?",
    "foo": "unknown field 'messages[0].foo'; known: function_call, name, ",
}


@pytest.mark.parametrize("name", EXTRA_FIELDS)
def test_unknown_fields_of_a_message_are_rejected(target: Addresses, name: str) -> None:
    body = json.dumps({"model": "tiny", "messages": [{**HELLO[0], name: {"x": 1}}]}).encode()
    answered = post(target.http, CHAT, body, f"authorization: Bearer {target.key}")
    error = json.loads(answered.body)["error"]
    assert (answered.status, error["code"], error["param"]) == (400, "unsupported_parameter", f"messages[0].{name}")
    assert error["message"].startswith(EXTRA_FIELDS[name])


async def test_unknown_fields_of_a_message_are_rejected_over_grpc_too(target: Addresses) -> None:
    message = pb.Message(role="user", content="Hello", extra_json='{"foo": 1}')
    async with open_channel(target.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway_pb2_grpc.GatewayStub(channel).Generate(
                pb.GenerateRequest(model="tiny", messages=[message]),
                metadata=(("authorization", f"Bearer {target.key}"),),
                timeout=20,
            )
    error = from_rpc_error(caught.value, "gateway")
    assert isinstance(error, InvalidArgument)
    assert (error.code, error.param) == ("unsupported_parameter", "messages[0].foo")


def test_operator_fields_are_rejected_for_embeddings_too(target: Addresses) -> None:
    body = json.dumps({"model": "minilm", "input": "x", "priority": -1}).encode()
    answered = post(target.http, "/v1/embeddings", body, f"authorization: Bearer {target.key}")
    assert (answered.status, answered.code) == (400, "unsupported_parameter")


async def ask(engine: ScriptedEngine, folder: Path, settings: dict[str, Any], *keys: dict[str, Any]) -> list[Any]:
    """Sends a request with each key, and returns what the engine got of it."""
    async with keyed_gateway(folder, engine.url, settings) as gateway:
        for number, order in enumerate(keys):
            fields = order.pop("fields", {})
            response = await gateway.chat(await gateway.key(f"tenant-{number}", **order), **fields)
            assert response.status_code == 200, response.text
    return engine.bodies


async def test_harmless_fields_are_accepted_and_not_sent(tmp_path: Path) -> None:
    async with running_engine() as engine, keyed_gateway(tmp_path, engine.url) as gateway:
        key = await gateway.key("acme")
        for path, body in BODIES.items():
            engine.says(*(text_answer("a", "b") if path == "/v1/completions" else answer("a", "b")))
            neutral = {"best_of": 1, "use_beam_search": False, "priority": None, "seed": 3}
            sent = body | HARMLESS | neutral
            if path == "/v1/responses":
                del sent["seed"]
            response = await gateway.http.post(path, json=sent, headers=key)
            assert response.status_code == 200, response.text
            assert not (HARMLESS | neutral).keys() - {"seed"} & engine.bodies[-1].keys()


async def test_a_messages_fields_from_earlier_answers_are_accepted_and_not_sent(tmp_path: Path) -> None:
    kept = {"role": "assistant", "content": "Hm", "reasoning_content": "?", "tool_calls": [{"id": "1"}]}
    repeated: dict[str, Any] = {"annotations": [], "audio": None, "id": "msg_1", "anything": None}
    async with running_engine() as engine:
        (body,) = await ask(engine, tmp_path, {}, {"fields": {"messages": [{**kept, **repeated}, *HELLO]}})
    assert body["messages"] == [kept, *HELLO]


async def test_priority_and_cache_salt_come_from_the_key(tmp_path: Path) -> None:
    async with running_engine() as engine:
        settings = {"priority_scheduling": True, "prefix_cache_per_tenant": True}
        plain = {"fields": {"top_k": 3}}
        low, high, none = await ask(engine, tmp_path, settings, {"priority": -7}, {"priority": 100, **plain}, {})
    assert (low["priority"], high["priority"], "priority" in none) == (7, -100, False)
    salts = {body["cache_salt"] for body in (low, high, none)}
    assert len(salts) == 3
    assert not any("tenant" in salt for salt in salts)
    assert high["top_k"] == 3


async def test_the_cache_salt_is_that_of_a_tenant_and_a_version_and_follows_an_alias(tmp_path: Path) -> None:
    """External KV caches may find blocks by the salt alone (vllm-project/vllm#44250)."""
    newer = "triage@0123456789ab"
    async with (
        running_engine() as engine,
        keyed_gateway(tmp_path, engine.url, {"prefix_cache_per_tenant": True}) as gateway,
    ):
        keys = [await gateway.key("acme"), await gateway.key("other")]

        async def salt(key: dict[str, str], model: str) -> tuple[str, str]:
            engine.says(*answer("a", "b"))
            response = await gateway.chat(key, model=model)
            assert response.status_code == 200, response.text
            return engine.bodies[-1]["model"], engine.bodies[-1]["cache_salt"]

        salts = {(tenant, *await salt(key, model)) for tenant, key in enumerate(keys) for model in MODELS}
        assert len(salts) == len({salt for _, _, salt in salts}) == 2 * len(MODELS)
        assert await salt(keys[0], TRIAGE) == await salt(keys[0], "triage@prod")
        before = await salt(keys[0], "triage@prod")
        moved = pb_lora.Alias(alias="triage@prod", version=newer, revision=2)
        await gateway.lora_server.say(READY, url=engine.url, resident=[TRIAGE, newer], aliases={"triage@prod": moved})
        async with asyncio.timeout(30):
            while (after := await salt(keys[0], "triage@prod"))[0] != newer:
                assert after == before
        assert after[1] not in {salt for _, _, salt in salts}


async def test_an_operator_may_allow_more(tmp_path: Path) -> None:
    async with running_engine() as engine:
        fields = {"fields": {"service_tier": "flex", "vllm_xargs": {"x": 1}}}
        (body,) = await ask(engine, tmp_path, {"request_fields": ["service_tier", "vllm_xargs"]}, fields)
    assert (body["service_tier"], body["vllm_xargs"]) == ("flex", {"x": 1})
    assert not {"priority", "cache_salt"} & body.keys()
