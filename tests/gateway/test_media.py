"""Images, audio and files are sent to models that accept them; other paths are skipped, or the request is rejected with
a reason."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles import anthropic_shapes, openai_shapes
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client

CHAT, MESSAGES, RESPONSES, ROUTE = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/route"
DATA = base64.b64encode(b"this is no image, and nobody here looks").decode()
DATA_URL = f"data:image/png;base64,{DATA}"
TEXT = {"type": "text", "text": IN_CHAT}
IMAGE = {"type": "image_url", "image_url": {"url": DATA_URL}}
REMOTE = {"type": "image_url", "image_url": {"url": "https://example.com/x.png", "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}
FILE: dict[str, Any] = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{DATA}"},
}


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    """Runs a gateway. The model `tiny` takes text, `seeing` images too; the same engine serves both."""
    config = neighbours.config
    config.models["models"]["seeing"] = {**config.models["models"]["tiny"], "input": ["text", "image"]}
    config.models["models"]["open"] = {
        **config.models["models"]["tiny"],
        "input": ["text", "image", "url", "file", "audio"],
    }
    for name in ("seeing", "open"):
        config.models["engines"][name] = {"model": name, "url": neighbours.engine.url}
    config.paths["seen"] = {"model": "seeing", "strategies": [{"persona": {"prompt": "persona.txt"}}]}
    config.tasks["chat"]["fallback"] = ["seen"]
    config.tasks["triage"]["rules"] = [{"name": "picture", "has": "image", "regex": "umbrella"}]
    config.tasks["triage"]["fallback"] = ["seen"]
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


def chat(*parts: Any, model: str = "auto") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": list(parts)}]}


async def test_a_path_whose_model_takes_no_images_is_passed_over(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    answer = await http.post(CHAT, json=chat(TEXT, IMAGE))
    assert answer.headers["x-pointsman-task"] == "chat"  # by the text
    assert answer.headers["x-pointsman-path"] == "seen"
    system, user = engine.bodies[-1]["messages"]
    assert system == {"role": "system", "content": "You are Wren."}
    assert user == {"role": "user", "content": [TEXT, IMAGE]}
    decision = (await http.post(ROUTE, json=chat(TEXT, IMAGE))).json()
    skipped = next(c for c in decision["considered"] if c["path"] == "small_talk")
    assert "its model 'tiny' takes text, and no image" in skipped["reason"]
    plain = await http.post(CHAT, json=chat(TEXT))
    assert plain.headers["x-pointsman-path"] == "small_talk"
    assert engine.bodies[-1]["messages"][-1] == {"role": "user", "content": IN_CHAT}


async def test_a_rule_may_ask_for_an_image(http: httpx.AsyncClient) -> None:
    text = {"type": "text", "text": IN_TRIAGE}
    for parts, reason in (([text, IMAGE], "rule:picture"), ([text], "policy:fixed")):
        decision = (await http.post(ROUTE, json=chat(*parts))).json()
        assert (decision["task"], decision["stage"] == reason) == ("triage", len(parts) == 2), decision


async def test_the_error_names_a_path_that_can(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for body, message in (
        (
            chat(TEXT, IMAGE, model="path:handbook"),
            "'handbook' cannot answer this: its model 'tiny' takes text, and no image; send it to path:seen",
        ),
        (chat(TEXT, IMAGE, model="tiny"), "send it to path:seen"),
        (chat(TEXT, AUDIO), "and no audio; no path takes it"),
        (
            chat(TEXT, REMOTE, model="seeing"),
            'takes text, image, and no url; no path takes it, or send the data itself, as a "data:" URL',
        ),
    ):  # fmt: skip
        answer = await http.post(CHAT, json=body)
        error = openai_shapes.error(answer)
        assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_content", "messages")
        assert message in error["message"]
    assert engine.bodies == []


async def test_media_are_passed_on_unchanged(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for part in (IMAGE, REMOTE, AUDIO, FILE):
        answer = await http.post(CHAT, json=chat(TEXT, part, model="open"))
        assert answer.status_code == 200, answer.text
        assert engine.bodies[-1]["messages"] == [{"role": "user", "content": [TEXT, part]}]
    answer = await http.post(CHAT, json=chat(IMAGE, model="open"))
    assert engine.bodies[-1]["messages"] == [{"role": "user", "content": [IMAGE]}]


async def test_responses_and_messages_are_converted(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    content = [
        {"type": "input_text", "text": IN_CHAT},
        {"type": "input_image", "image_url": "https://example.com/x.png", "detail": "low"},
        {"type": "input_file", **FILE["file"]},
        AUDIO,
    ]
    asked: dict[str, Any] = {"model": "open", "input": [{"role": "user", "content": content}]}
    answer = await http.post(RESPONSES, json=asked)
    assert answer.status_code == 200, answer.text
    assert engine.bodies[-1]["messages"] == [{"role": "user", "content": [TEXT, REMOTE, FILE, AUDIO]}]
    source = {"type": "base64", "media_type": "image/png", "data": DATA}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": DATA}
    blocks = [
        {"type": "tool_result", "tool_use_id": "c1", "content": [TEXT, {"type": "image", "source": source}]},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}},
        {"type": "document", "title": "a.pdf", "source": pdf},
        TEXT,
    ]
    asked = {"model": "open", "max_tokens": 5, "messages": [{"role": "user", "content": blocks}]}
    answer = await http.post(MESSAGES, json=asked)
    anthropic_shapes.message(answer.json())
    remote = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    assert engine.bodies[-1]["messages"] == [
        {"role": "tool", "content": IN_CHAT, "tool_call_id": "c1"},
        {"role": "user", "content": [IMAGE, remote, FILE, TEXT]},
    ]
    error = anthropic_shapes.error(await http.post(MESSAGES, json={**asked, "model": "tiny"}))
    assert (error["code"], error["type"]) == ("unsupported_content", "invalid_request_error")


CALLS = [
    {"type": "function_call", "call_id": call_id, "name": "view_image", "arguments": "{}"} for call_id in ("c1", "c2")
]


def output(call_id: str, *parts: Any, kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, "output": list(parts)}


SAW: dict[str, Any] = {"type": "input_text", "text": "a.png"}
SHOWN = {"type": "input_image", "image_url": DATA_URL}
READ = {"type": "input_file", **FILE["file"]}
ASKED = {"role": "user", "content": IN_CHAT}


async def test_media_in_an_output_of_a_tool_go_into_a_users_message_after_all_outputs(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    results = [
        {"role": "tool", "tool_call_id": "c1", "content": "a.png"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
    ]
    outputs = [output("c1", SAW, SHOWN), output("c2", READ, kind="custom_tool_call_output")]
    reasoning = {"type": "reasoning", "summary": []}
    for after, messages in (
        ([], [{"role": "user", "content": [IMAGE, FILE]}]),
        ([reasoning, ASKED], [{"role": "user", "content": [IMAGE, FILE, TEXT]}]),
        (
            [{"role": "assistant", "content": "A dog."}, ASKED],
            [{"role": "user", "content": [IMAGE, FILE]}, {"role": "assistant", "content": "A dog."}, ASKED],
        ),
    ):
        answer = await http.post(RESPONSES, json={"model": "open", "input": [ASKED, *CALLS, *outputs, *after]})
        assert answer.status_code == 200, answer.text
        asked, called, *rest = engine.bodies[-1]["messages"]
        assert (asked, [call["id"] for call in called["tool_calls"]]) == (ASKED, ["c1", "c2"])
        assert rest == [*results, *messages], after


async def test_a_model_without_images_gets_none_from_a_tool(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    body = {"model": "tiny", "input": [ASKED, CALLS[0], output("c1", SHOWN)]}
    error = openai_shapes.error(await http.post(RESPONSES, json=body))
    assert (error["code"], "and no image" in error["message"]) == ("unsupported_content", True)
    odd = {**body, "model": "open", "input": [output("c1", {"type": "input_image", "image_url": "file:///etc/passwd"})]}
    error = openai_shapes.error(await http.post(RESPONSES, json=odd))
    assert error["param"] == "input[0].output[0].image_url"
    assert engine.bodies == []


BAD: list[tuple[str, Any, str]] = [
    ("user", {"type": "image_url", "image_url": "x"}, ".image_url"),
    ("user", {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, ".image_url"),
    ("user", {"type": "image_url"}, ".image_url"),
    ("user", {"type": "file", "file": {"file_id": "file-1"}}, ".file"),
    ("user", {"type": "input_audio", "input_audio": {"format": "wav"}}, ".input_audio"),
    ("system", IMAGE, ""),
    ("assistant", IMAGE, ""),
]


async def test_media_that_no_engine_should_get_are_rejected(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for role, part, param in BAD:
        answer = await http.post(CHAT, json={"model": "open", "messages": [{"role": role, "content": [part]}]})
        error = openai_shapes.error(answer)
        assert (error["code"], error["param"]) == ("unsupported_content", "messages[0].content[0]" + param), part
    assert engine.bodies == []


async def test_limits_of_size_apply(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    large = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 6_000_000}}
    answer = await http.post(CHAT, json=chat(TEXT, large, model="open"))
    assert answer.status_code == 200
    assert len(json.dumps(engine.bodies[-1])) > 6_000_000
    error = openai_shapes.error(await http.post(CHAT, json=chat(large, large, model="open")))
    assert error["code"] == "body_too_large"


MEDIA: list[tuple[pb.Media, dict[str, Any]]] = [
    (pb.Media(kind="image", media_type="image/png", data=base64.b64decode(DATA)), IMAGE),
    (pb.Media(kind="image", url=DATA_URL), IMAGE),
    (pb.Media(kind="audio", media_type="audio/wav", data=base64.b64decode(DATA)), AUDIO),
    (pb.Media(kind="file", media_type="application/pdf", data=base64.b64decode(DATA), name="a.pdf"), FILE),
]


def grpc_request(*parts: pb.ContentPart, role: str = "user", model: str = "open", **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(model=model, messages=[pb.Message(role=role, parts=parts, **fields)])


async def test_media_over_grpc_are_those_of_http(gateway: Gateway, engine: ScriptedEngine) -> None:
    async with open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        for media, part in MEDIA:
            await stub.Generate(grpc_request(pb.ContentPart(text=IN_CHAT), pb.ContentPart(media=media)))
            assert engine.bodies[-1]["messages"] == [{"role": "user", "content": [TEXT, part]}]
        await stub.Generate(grpc_request(pb.ContentPart(text="Hel"), pb.ContentPart(text="lo")))
        assert engine.bodies[-1]["messages"] == [{"role": "user", "content": "Hel\nlo"}]
        image = pb.ContentPart(media=MEDIA[0][0])
        routed = await stub.Route(
            pb.RouteRequest(
                model="auto", messages=[pb.Message(role="user", parts=[pb.ContentPart(text=IN_CHAT), image])]
            )
        )
        assert (routed.decision.task, routed.decision.path) == ("chat", "seen")


BAD_MEDIA: list[tuple[pb.GenerateRequest, str]] = [
    (grpc_request(pb.ContentPart(media=pb.Media(kind="smell", url=DATA_URL))), "kind 'smell'; known: image"),
    (grpc_request(pb.ContentPart(media=pb.Media(kind="image"))), "neither data nor url"),
    (grpc_request(pb.ContentPart(media=pb.Media(kind="image", data=b"x"))), "data without a media_type"),
    (
        grpc_request(pb.ContentPart(media=pb.Media(kind="image", url="file:///etc/passwd"))),
        "urls begin with https:",
    ),
    (grpc_request(pb.ContentPart(media=MEDIA[0][0]), role="system"), "only messages of the user and of tools"),
    (grpc_request(pb.ContentPart(text="x"), content="x"), "has content and parts; send one of them"),
    (grpc_request(*[pb.ContentPart(text="x")] * 1001), "has 1001 content parts; at most 1000"),
    (
        grpc_request(pb.ContentPart(media=pb.Media(kind="image", url="https://example.com/x.png")), model="seeing"),
        "no url",
    ),
]


async def test_wrong_media_over_grpc_are_rejected(gateway: Gateway, engine: ScriptedEngine) -> None:
    async with open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        for request, message in BAD_MEDIA:
            with pytest.raises(grpc.aio.AioRpcError) as rejected:
                await stub.Generate(request)
            assert rejected.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert message in str(rejected.value.details())
    assert engine.bodies == []


async def test_a_price_for_each_image_is_in_the_receipt_and_in_the_expected_cost(
    neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    models = neighbours.config.models["models"]
    models["tiny"]["input"] = ["text", "image"]
    models["tiny"]["usd_per_image"] = 0.0025
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        plain = (await http.post(CHAT, json=chat(TEXT, model="tiny"))).json()["pointsman"]
        shown = (await http.post(CHAT, json=chat(TEXT, IMAGE, IMAGE, model="tiny"))).json()["pointsman"]
        assert "image" not in plain["cost_parts_usd"]
        assert shown["cost_parts_usd"]["image"] == 0.005
        assert shown["cost_usd"] == pytest.approx(sum(shown["cost_parts_usd"].values()))
        for images in (0, 1, 3):  # past images are not in the mean
            routed = (await http.post(ROUTE, json=chat(TEXT, *[IMAGE] * images, model="tiny"))).json()
            if not images:
                without = routed["costs_usd"]["tiny"]
            assert routed["costs_usd"]["tiny"] - without == pytest.approx(images * 0.0025)


def test_an_unknown_input_is_refused(config_folder: ConfigFolder) -> None:
    config_folder.models["models"]["tiny"]["input"] = ["text", "smell"]
    with pytest.raises(ConfigError, match="input"):
        load_config(config_folder.write())
