"""Images and documents reach an Anthropic engine as its content blocks, from every dialect; others are refused."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Message
from pointsman_gateway.engines.dialects.anthropic.content import to_turns
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.anthropic_api import Anthropic, ask, running_anthropic, site
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.gateway import Neighbours

PNG = base64.b64encode(b"a picture").decode()
PDF = base64.b64encode(b"a document").decode()
NOTE = base64.b64encode("Grüße".encode()).decode()
ASKED = {"type": "text", "text": "What is this?"}
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
REMOTE = {"type": "image_url", "image_url": {"url": "https://example.com/x.png", "detail": "low"}}
FILE: dict[str, Any] = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
}
TEXT_FILE = {"type": "file", "file": {"filename": "a.txt", "file_data": f"data:text/plain;charset=utf-8;base64,{NOTE}"}}

IMAGE_BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
REMOTE_BLOCK = {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}
PDF_BLOCK = {
    "type": "document",
    "title": "a.pdf",
    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
}
NOTE_BLOCK = {
    "type": "document",
    "title": "a.txt",
    "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
USE = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}


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


async def test_media_of_chat_completions_become_blocks(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    answered = await ask(
        claude,
        {"role": "user", "content": [IMAGE, REMOTE, FILE, TEXT_FILE, ASKED]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "Seen"}, IMAGE]},
    )
    assert answered.status_code == 200, answered.text
    seen = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Seen"}, IMAGE_BLOCK]}
    assert anthropic.bodies[0]["messages"] == [
        {"role": "user", "content": [IMAGE_BLOCK, REMOTE_BLOCK, PDF_BLOCK, NOTE_BLOCK, ASKED]},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [seen]},
    ]


async def test_media_of_messages_come_back_as_they_were(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    content = [IMAGE_BLOCK, REMOTE_BLOCK, PDF_BLOCK, ASKED]
    asked = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
    answered = await claude.post("/v1/messages", json=asked)
    assert answered.status_code == 200, answered.text
    assert anthropic.bodies[0]["messages"] == asked["messages"]


async def test_media_of_responses_become_blocks(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    content = [
        {"type": "input_image", "image_url": IMAGE["image_url"]["url"]},
        {"type": "input_file", **FILE["file"]},
        {"type": "input_text", "text": ASKED["text"]},
    ]
    answered = await claude.post(
        "/v1/responses", json={"model": "claude", "input": [{"role": "user", "content": content}]}
    )
    assert answered.status_code == 200, answered.text
    assert anthropic.bodies[0]["messages"] == [{"role": "user", "content": [IMAGE_BLOCK, PDF_BLOCK, ASKED]}]


async def test_media_over_grpc_become_blocks(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_KEY", "sk-ant")
    models = neighbours.config.models
    models["models"]["claude"] = {"upstream": "claude-haiku-4-5", "input": ["text", "image"]}
    models["engines"]["claude"] = {
        "model": "claude", "provider": "anthropic", "url": anthropic.url, "api_key_env": "CLAUDE_KEY",
    }  # fmt: skip
    await neighbours.ready()
    media = pb.Media(kind="image", media_type="image/png", data=b"a picture")
    parts = [pb.ContentPart(media=media), pb.ContentPart(text=ASKED["text"])]
    async with neighbours.gateway() as gateway, open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        await stub.Generate(pb.GenerateRequest(model="claude", messages=[pb.Message(role="user", parts=parts)]))
    assert anthropic.bodies[0]["messages"] == [{"role": "user", "content": [IMAGE_BLOCK, ASKED]}]


def file_of(data: str) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": data}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}, "no part of type 'input_audio'"),
    ({"type": "video_url", "video_url": {"url": "https://example.com/x.mp4"}}, "no part of type 'video_url'"),
    (file_of(f"data:application/zip;base64,{PNG}"), "and no 'application/zip'"),
    (file_of("https://example.com/x.pdf"), 'the data of a file as a "data:" URL'),
    (file_of("data:text/plain;base64,%%%"), "in UTF-8 and base64"),
    ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, "an image in base64"),
]


@pytest.mark.parametrize(("part", "message"), REFUSED)
def test_media_that_the_api_does_not_take_are_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match="this model takes") as refused:
        to_turns([Message("user", "", {"content": [part]})])
    assert (refused.value.code, message in str(refused.value)) == ("unsupported_content", True), refused.value


async def test_a_file_of_another_type_is_refused_with_400(claude: httpx.AsyncClient, anthropic: Anthropic) -> None:
    for part, message in REFUSED[2:3] * 2:  # on a new connection, and on one that is open
        refused = await ask(claude, {"role": "user", "content": [part, ASKED]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_content"), refused.text
        assert message in refused.json()["error"]["message"]
        assert (await ask(claude)).status_code == 200
    assert len(anthropic.bodies) == 2


def test_a_model_whose_engine_takes_no_audio_must_not_claim_it(
    config_folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_KEY", "sk-ant")
    config_folder.models["models"]["claude"] = {"upstream": "claude-haiku-4-5", "input": ["text", "image", "audio"]}
    config_folder.models["engines"]["claude"] = {
        "model": "claude",
        "provider": "anthropic",
        "api_key_env": "CLAUDE_KEY",
    }
    with pytest.raises(ConfigError, match=r"model 'claude' has input: audio.*takes text, image, file, url"):
        load_config(config_folder.write())


def test_older_function_calls_and_refusals_are_not_lost() -> None:
    called = {"name": "look", "arguments": '{"at": "it"}'}
    assert to_turns([
        Message("user", "Look"),
        Message("assistant", "", {"function_call": called}),
        Message("function", "Seen", {"name": "look"}),
        Message("assistant", "", {"refusal": "No."}),
    ]) == [
        {"role": "user", "content": [{"type": "text", "text": "Look"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "look", "name": "look", "input": {"at": "it"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "look", "content": "Seen"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "unsupported_tool", "tools[0].type"),
        (
            {"tools": [CALL | {"function": {"name": "f"}}], "tool_choice": {"type": "allowed_tools"}},
            "unsupported_parameter",
            "tool_choice",
        ),
    ],
)
async def test_tools_that_the_api_does_not_have_are_refused(
    claude: httpx.AsyncClient, anthropic: Anthropic, fields: dict[str, Any], code: str, param: str
) -> None:
    error = (await ask(claude, **fields)).json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert anthropic.bodies == []
