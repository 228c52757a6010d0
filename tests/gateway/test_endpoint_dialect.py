"""An endpoint dialect costs one file and one line: after adding the example, a copy of the HTTP server serves it."""

import json
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import httpx
import pointsman_gateway
import pytest
from pointsman_gateway.config.providers import providers
from pointsman_gateway.engines.dialects.registry import ENGINE_DIALECTS
from pointsman_gateway.http.dialects.openai.chat import CHAT

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Gateway, http_dependencies

EXAMPLE = Path(__file__).parents[2] / "examples" / "extensions" / "endpoint_dialect.py"
HTTP = "pointsman_gateway.http"
LIST = "DECLARED = (\n"
ENTRY = '    "ask:ASK",\n'


@pytest.fixture
def _with_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes imports of the HTTP server load a copy to which the example was added."""
    server = Path(pointsman_gateway.__path__[0]) / "http"
    dialects = Path(shutil.copytree(server, tmp_path / "http")) / "dialects"
    shutil.copy(EXAMPLE, dialects / "ask.py")
    listed = (dialects / "registry.py").read_text("utf-8")
    assert listed.count(LIST) == 1
    (dialects / "registry.py").write_text(listed.replace(LIST, LIST + ENTRY))
    monkeypatch.setattr(pointsman_gateway, "__path__", [str(tmp_path), *pointsman_gateway.__path__])
    monkeypatch.setattr(pointsman_gateway, "http", import_module(HTTP))
    for module in [name for name in sys.modules if name == HTTP or name.startswith(f"{HTTP}.")]:
        monkeypatch.delitem(sys.modules, module)
    yield
    for module in [name for name in sys.modules if name == HTTP or name.startswith(f"{HTTP}.")]:
        del sys.modules[module]  # `monkeypatch` puts back those that were there before


@pytest.fixture
async def client(gateway: Gateway, _with_the_example: None) -> AsyncIterator[httpx.AsyncClient]:
    build_app = import_module(f"{HTTP}.app").build_app
    server, reader = import_module(f"{HTTP}.server"), import_module(f"{HTTP}.fast_reader")
    dependencies = http_dependencies(gateway.components)
    async with (
        server.serve_http(
            build_app(dependencies), "127.0.0.1:0", grace=1, chat_reader=reader.ChatReader(dependencies)
        ) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=10, verify=False) as client,
    ):
        yield client


async def test_a_new_dialect_answers(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " you"))
    reply = await client.post("/v1/ask", json={"question": IN_CHAT})
    assert reply.status_code == 200, reply.text
    assert reply.json()["id"] == "ask-" + reply.headers["x-pointsman-decision-id"]
    assert (reply.json()["text"], reply.headers["x-pointsman-task"]) == ("Hello you", "chat")


async def test_a_new_dialect_streams(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " you"))
    reply = await client.post("/v1/ask", json={"question": IN_CHAT, "stream": True})
    first, *texts, last = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line]
    assert first["id"].startswith("ask-dec_")
    assert "".join(event["text"] for event in texts) == "Hello you"
    assert last["usd"] > 0


async def test_a_new_dialect_has_all_that_the_others_have(client: httpx.AsyncClient, gateway: Gateway) -> None:
    rejected = gateway.metric("pointsman_rejected_total", code="bad_parameter")
    refused = await client.post("/v1/ask", json={"question": 5})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "question")
    assert gateway.metric("pointsman_rejected_total", code="bad_parameter") == rejected + 1
    advised = await client.post("/ask", json={})
    assert "did you mean /v1/ask?" in advised.json()["error"]["message"]
    described = (await client.get("/openapi.json")).json()["paths"]["/v1/ask"]["post"]
    assert described["description"] == "Answers one question."
    assert "4XX" in described["responses"]


async def test_the_other_dialects_are_served_as_before(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    body = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": IN_CHAT}]}
    for path in ("/v1/chat/completions", "/v1/messages"):
        engine.says(*answer("Hello"))
        assert (await client.post(path, json=body)).status_code == 200


def test_the_path_of_a_dialect_has_no_parameters() -> None:
    with pytest.raises(ValueError, match="the path of a dialect has no parameters"):
        replace(CHAT, path="/v1/models/{model}:ask")


def test_every_provider_has_a_known_dialect() -> None:
    assert {provider.dialect for provider in providers().values()} <= ENGINE_DIALECTS.keys()
