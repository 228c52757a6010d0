"""Only the known fields of content parts reach an engine, whichever API the parts come by."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles import anthropic_shapes, openai_shapes
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours

CHAT, MESSAGES, RESPONSES, ROUTE = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/route"
METADATA = "http://169.254.169.254/latest/meta-data/"
DATA_URL = "data:image/png;base64,AAAA"
TEXT: dict[str, Any] = {"type": "text", "text": "What is this?"}
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": DATA_URL}}
AUDIO: dict[str, Any] = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE: dict[str, Any] = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    """Runs a gateway. The model `shown` takes all media as data, `open` also as URLs; the same engine serves both."""
    config = neighbours.config
    media = ["text", "image", "audio", "video", "file"]
    for name, taken in (("shown", media), ("open", [*media, "url"])):
        config.models["models"][name] = {**config.models["models"]["tiny"], "input": taken}
        config.models["engines"][name] = {"model": name, "url": neighbours.engine.url}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


def chat(*parts: Any, model: str = "shown", role: str = "user") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": role, "content": list(parts)}]}


def within(part: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Returns the part with further fields added to the object inside it."""
    kind = part["type"]
    return {**part, kind: {**part[kind], **fields}}


SMUGGLED: list[tuple[dict[str, Any], str]] = [
    ({**AUDIO, "uuid": "x", "image_url": METADATA}, ".uuid"),
    ({**AUDIO, "image_url": METADATA}, ".image_url"),
    ({**AUDIO, "audio_url": {"url": METADATA}}, ".audio_url"),
    ({**IMAGE, "uuid": "the hash of another tenant's picture"}, ".uuid"),
    ({**IMAGE, "video_url": {"url": METADATA}}, ".video_url"),
    ({**IMAGE, "image_embeds": "AAAA"}, ".image_embeds"),
    ({**IMAGE, "audio_embeds": "AAAA"}, ".audio_embeds"),
    ({**IMAGE, "video_embeds": "AAAA"}, ".video_embeds"),
    ({**IMAGE, "prompt_embeds": "AAAA"}, ".prompt_embeds"),
    ({**IMAGE, "image_pil": {}}, ".image_pil"),
    ({**IMAGE, "min_pixels": 1}, ".min_pixels"),
    (within(IMAGE, uuid="x"), ".image_url.uuid"),
    (within(AUDIO, url=METADATA), ".input_audio.url"),
    (within(FILE, file_id="file-1"), ".file.file_id"),
    (within(FILE, file_url=METADATA), ".file.file_url"),
    ({**TEXT, "image_url": METADATA}, ".image_url"),
    ({**TEXT, "uuid": "x", "prompt_embeds": "AAAA"}, ".prompt_embeds"),
]


@pytest.mark.parametrize("role", ["user", "tool"])
async def test_a_field_that_no_part_has_is_refused_by_its_name(
    http: httpx.AsyncClient, engine: ScriptedEngine, role: str
) -> None:
    for part, param in SMUGGLED:
        for url in (CHAT, ROUTE):
            error = openai_shapes.error(await http.post(url, json=chat(TEXT, part, role=role)))
            assert (error["code"], error["param"]) == ("unsupported_parameter", "messages[0].content[1]" + param), part
    assert engine.bodies == []


NO_DATA: list[tuple[dict[str, Any], str]] = [
    (within(FILE, file_data="file-1"), ".file"),
    (within(FILE, file_data="gs://bucket/a.pdf"), ".file"),
    (within(FILE, file_data=None, file_id=METADATA), ".file"),
    (within(FILE, filename={"a": 1}), ".file.filename"),
    (within(AUDIO, data="file:///etc/passwd"), ".input_audio"),
    (within(AUDIO, format=["wav"]), ".input_audio.format"),
    (within(IMAGE, url=" " + METADATA), ".image_url"),
    (within(IMAGE, detail=5), ".image_url.detail"),
    ({"type": "image_url", "image_url": METADATA}, ".image_url"),
    ({"type": [], "text": "x"}, ""),
    ({"type": {}, "text": "x"}, ""),
    ({"type": ["image_url"], "image_url": {"url": DATA_URL}}, ""),
    ({"image_url": {"url": DATA_URL}}, ""),
]


async def test_a_part_of_another_form_is_refused_with_its_position(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    for part, param in NO_DATA:
        for url in (CHAT, ROUTE):
            answer = await http.post(url, json=chat(TEXT, part, model="open"))
            error = openai_shapes.error(answer)
            assert (answer.status_code, error["code"]) == (400, "unsupported_content"), part
            assert error["param"] == "messages[0].content[1]" + param, part
    assert engine.bodies == []


async def test_only_a_model_that_takes_urls_gets_the_url_of_a_file_or_sound(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    for part in (within(FILE, file_data=METADATA), within(AUDIO, data=METADATA)):
        error = openai_shapes.error(await http.post(CHAT, json=chat(TEXT, part)))
        assert (error["code"], "and no url" in error["message"]) == ("unsupported_content", True), error
        assert engine.bodies == []
    for part in (within(FILE, file_data=METADATA), within(AUDIO, data=METADATA)):
        answer = await http.post(CHAT, json=chat(TEXT, part, model="open"))
        assert answer.status_code == 200, answer.text
        assert engine.bodies.pop()["messages"][0]["content"] == [TEXT, part]


async def test_hints_and_fields_that_are_null_are_left_out(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    hints = {"cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": {"mode": "explicit"}, "uuid": None}
    parts = [{**TEXT, **hints, "image_url": None}, {**within(IMAGE, detail=None), **hints, "text": None}]
    answer = await http.post(CHAT, json=chat(*parts))
    assert answer.status_code == 200, answer.text
    assert engine.bodies[-1]["messages"][0]["content"] == [TEXT, IMAGE]


RESPONSE_PARTS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "input_image", "image_url": DATA_URL, "uuid": "x"}, "unsupported_parameter", ".uuid"),
    ({"type": "input_image", "image_url": DATA_URL, "file_id": "file-1"}, "unsupported_parameter", ".file_id"),
    ({"type": "input_image", "file_id": "file-1"}, "unsupported_content", ".image_url"),
    ({"type": "input_file", "file_id": "file-1"}, "unsupported_content", ".file"),
    ({"type": "input_file", "file_data": "data:,x", "file_url": METADATA}, "unsupported_parameter", ".file_url"),
    ({"type": "input_file", "file_url": "file:///etc/passwd"}, "unsupported_content", ".file"),
    ({"type": "input_text", "text": "x", "image_url": METADATA}, "unsupported_parameter", ".image_url"),
    ({**AUDIO, "uuid": "x"}, "unsupported_parameter", ".uuid"),
    (within(AUDIO, url=METADATA), "unsupported_parameter", ".input_audio.url"),
    ({"type": [], "text": "x"}, "unsupported_content", ""),
    ({"type": {"input_image": 1}, "text": "x"}, "unsupported_content", ""),
]


async def test_the_same_rules_apply_to_responses(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for part, code, param in RESPONSE_PARTS:
        body = {"model": "open", "input": [{"role": "user", "content": [part]}]}
        error = openai_shapes.error(await http.post(RESPONSES, json=body))
        assert (error["code"], error["param"]) == (code, "input[0].content[0]" + param), part
    remote = {"type": "input_file", "file_url": METADATA, "detail": "low", "file_id": None}
    body = {"model": "shown", "input": [{"role": "user", "content": [remote]}]}
    error = openai_shapes.error(await http.post(RESPONSES, json=body))
    assert (error["code"], "and no url" in error["message"]) == ("unsupported_content", True)
    assert engine.bodies == []
    assert (await http.post(RESPONSES, json={**body, "model": "open"})).status_code == 200
    sent = [{"type": "file", "file": {"file_data": METADATA}}]
    assert engine.bodies[-1]["messages"] == [{"role": "user", "content": sent}]


PICTURE: dict[str, Any] = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
BLOCKS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "image", "source": {**PICTURE, "url": METADATA}}, "unsupported_parameter", ".source.url"),
    ({"type": "image", "source": {**PICTURE, "media_type": {}}}, "bad_parameter", ".source.media_type"),
    ({"type": "image", "source": {"type": "base64"}}, "bad_parameter", ".source.media_type"),
    ({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}, "unsupported_content", ""),
    ({"type": "document", "title": ["a"], "source": PICTURE}, "bad_parameter", ".title"),
    ({"type": [], "source": PICTURE}, "unsupported_content", ""),
    ({"type": "image", "source": {**PICTURE, "type": []}}, "unsupported_content", ""),
]


async def test_the_same_rules_apply_to_messages_and_results_of_tools(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    def body(block: dict[str, Any], model: str = "open") -> dict[str, Any]:
        return {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}

    for block, code, param in BLOCKS:
        for sent, where in (
            (block, "messages[0].content[0]"),
            ({"type": "tool_result", "tool_use_id": "c", "content": [block]}, "messages[0].content[0].content[0]"),
        ):
            error = anthropic_shapes.error(await http.post(MESSAGES, json=body(sent)))
            assert (error["code"], error["param"]) == (code, where + param), sent
    remote = {"type": "document", "title": "a.pdf", "context": "Ours.", "source": {"type": "url", "url": METADATA}}
    error = anthropic_shapes.error(await http.post(MESSAGES, json=body(remote, "shown")))
    assert (error["code"], "and no url" in error["message"]) == ("unsupported_content", True)
    assert engine.bodies == []
    assert (await http.post(MESSAGES, json=body(remote))).status_code == 200
    context = {"type": "text", "text": "Ours."}
    assert engine.bodies[-1]["messages"][0]["content"] == [context, within(FILE, file_data=METADATA)]


async def test_a_file_by_url_over_grpc_needs_a_model_that_takes_urls(gateway: Gateway, engine: ScriptedEngine) -> None:
    def request(model: str) -> pb.GenerateRequest:
        part = pb.ContentPart(media=pb.Media(kind="file", url=METADATA, name="a.pdf"))
        return pb.GenerateRequest(model=model, messages=[pb.Message(role="user", parts=[part])])

    async with open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="and no url"):
            await stub.Generate(request("shown"))
        assert engine.bodies == []
        await stub.Generate(request("open"))
        assert engine.bodies[-1]["messages"][0]["content"] == [within(FILE, file_data=METADATA)]


async def test_texts_of_one_message_become_lines_as_in_vllm(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    def texts(kind: str = "text") -> list[dict[str, Any]]:
        return [{"type": kind, "text": "The rules."}, {"type": kind, "text": "May I?"}]

    joined = {"role": "user", "content": "The rules.\nMay I?"}
    result = [{"type": "tool_result", "tool_use_id": "c", "content": texts()}]
    output = [{"type": "function_call_output", "call_id": "c", "output": texts("input_text")}]
    message = {"role": "tool", "content": joined["content"], "tool_call_id": "c"}
    bodies: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        (CHAT, chat(*texts()), joined),
        (RESPONSES, {"input": [{"role": "user", "content": texts("input_text")}]}, joined),
        (RESPONSES, {"input": output}, message),
        (MESSAGES, {"max_tokens": 5, "messages": [{"role": "user", "content": texts()}]}, joined),
        (MESSAGES, {"max_tokens": 5, "messages": [{"role": "user", "content": result}]}, message),
    ]
    for url, body, message in bodies:
        answer = await http.post(url, json={**body, "model": "shown"})
        assert (answer.status_code, engine.bodies[-1]["messages"]) == (200, [message]), (url, answer.text)
    thought = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]
    await http.post(CHAT, json=chat(*thought, role="assistant"))
    assert engine.bodies[-1]["messages"] == [{"role": "assistant", "content": "Hm.\nYes."}]
    async with open_channel(gateway.grpc_address) as channel:
        parts = [pb.ContentPart(text=part["text"]) for part in texts()]
        spoken = pb.Message(role="user", parts=parts)
        await gateway_pb2_grpc.GatewayStub(channel).Generate(pb.GenerateRequest(model="shown", messages=[spoken]))
    assert engine.bodies[-1]["messages"] == [joined]
