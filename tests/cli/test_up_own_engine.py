"""`pointsman up --engine URL` runs the gateway and Valkey in front of an engine that already runs, without vLLM or
torch."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from aiohttp import web
from pointsman_cli.data_dir import DataDir, Run, read_run
from pointsman_cli.errors import UsageError
from pointsman_cli.example import check_retriever, load_example
from pointsman_cli.up.own_engine import EngineOption, engine_config, write_engine_config
from pointsman_gateway.config.load import load_config

from tests.gateway.doubles.engine import ScriptedEngine, answer, model_card, model_list, running_engine
from tests.gateway.doubles.waiting import until

ROOT = Path(__file__).parents[2]
Cli = Callable[..., Any]


@pytest.fixture
async def vllm() -> AsyncIterator[ScriptedEngine]:
    async with running_engine() as vllm:
        vllm.lists = lambda: model_list("llama", {"sql": "/loras/sql"})
        vllm.script = lambda body: answer(body["model"], " here")
        yield vllm


async def write(option: EngineOption, home: Path) -> Path:
    return await asyncio.to_thread(write_engine_config, option, DataDir.at(home))


async def test_the_gateway_serves_the_engine_and_its_adapters_without_vllm(
    vllm: ScriptedEngine, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    options = ["--engine", f"{vllm.url}/v1", "--key-env", "MY_KEY", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    environment = {**os.environ, "MY_KEY": "sk-mine", "POINTSMAN_ENGINE_PYTHON": "/nowhere/python"}
    with (tmp_path / "up.log").open("wb") as log:
        up = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman_cli", "up", *options, "--data-dir", str(home)),
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    try:
        await until(lambda: (home / "run.json").exists() or up.returncode is not None, within=300)
        run = read_run(home / "run.json")
        assert run is not None, (tmp_path / "up.log").read_text()
        await asks(run, vllm)
    finally:
        up.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(up.wait(), 60) == 0
    assert not (home / "models").exists()  # nothing embeds, so the embedding model is not prepared


async def asks(run: Run, vllm: ScriptedEngine) -> None:
    assert list(run.processes) == ["valkey", "gateway"]
    assert (run.lora_server, run.retriever, run.engine) == ("", "", "")
    async with httpx.AsyncClient(base_url=run.http, timeout=30) as http:
        for model, answered in (("auto", "llama"), ("llama", "llama"), ("sql", "sql")):
            body = {"model": model, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
            response = await http.post("/v1/chat/completions", json=body)
            assert response.json()["choices"][0]["message"]["content"] == f"{answered} here"
            assert response.json()["pointsman"]["cost_usd"] is None
            assert response.headers["x-pointsman-reason"] == ("no_tasks" if model == "auto" else "forced")
    assert vllm.headers[-1]["authorization"] == "Bearer sk-mine"


async def test_the_configuration_is_what_the_engine_lists(vllm: ScriptedEngine, tmp_path: Path) -> None:
    folder = await write(EngineOption(vllm.url + "/v1"), tmp_path)
    config = load_config(folder, {})
    assert {name: model.context_window for name, model in config.models.models.items()} == {"llama": 4096}
    assert config.models.engines["engine-0"].url == vllm.url
    assert config.models.engines["engine-0"].discovers_adapters
    loaded = load_example(folder)
    assert (loaded.base_model, loaded.needs_retriever, loaded.config) == ("", False, folder)
    assert (config.tasks.tasks, config.tasks.default_path, loaded.needs_embedding_model) == ({}, "default", False)


PATH = {"model": "m", "cache": {"ttl_seconds": 60}, "strategies": [{"persona": {"prompt": "p"}}]}


@pytest.mark.parametrize(
    ("content", "needed"),
    [
        ({"paths": {"p": PATH}}, False),
        ({"paths": {"p": PATH}, "tasks": {"a": {}, "b": {}}}, True),
        ({"paths": {"p": PATH | {"cache": {"similarity_threshold": 0.9}}}}, True),
        ({"paths": {"p": PATH | {"strategies": [{"own.strategies:Today": {}}]}}}, True),
        ({"paths": {"p": PATH}, "embeddings": {"minilm": {"local": True}}}, True),
        ({"paths": {"p": PATH}, "collections": {"c": {"store": "qdrant"}}}, True),
        ({"paths": ["p"]}, True),
    ],
)
def test_the_embedding_model_is_prepared_if_something_may_embed(
    tmp_path: Path, content: dict[str, Any], needed: bool
) -> None:
    (tmp_path / "pointsman.yaml").write_text(yaml.safe_dump(content))
    assert load_example(tmp_path).needs_embedding_model is needed


LOOKS_UP = PATH | {"strategies": [{"retrieval": {"collection": "docs"}}]}
OWN = PATH | {"strategies": [{"own.strategies:Today": {}}]}


@pytest.mark.parametrize(
    ("content", "needed"),
    [
        ("paths: {p: {model: m}} # retrieval", False),
        ({"paths": {"p": PATH}, "tasks": {"a": {"examples": ["retrieval", "b"]}}}, False),
        ({"paths": {"retrieval": PATH}, "retrieval": {"usd_per_search": 0}}, False),
        ({"paths": {"p": LOOKS_UP}}, True),
        ({"paths": {"p": OWN}}, False),
        ({"paths": {"p": OWN}, "retrieval": {"usd_per_search": 0}}, True),
        ({"paths": {"p": PATH}, "collections": {"c": {"store": "qdrant"}}}, True),
        ({"paths": {"p": PATH}, "rerankers": {"own": {"retriever": True}}}, True),
        ({"paths": {"p": PATH}, "rerankers": {"remote": {"url": "http://h"}}}, False),
        ({"paths": ["retrieval"]}, False),
    ],
)
def test_the_retriever_is_needed_if_a_path_may_retrieve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, needed: bool
) -> None:
    (tmp_path / "pointsman.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    monkeypatch.setitem(sys.modules, "pointsman_retriever", None)  # not installed
    refusal = pytest.raises(UsageError, match="the retriever is not installed") if needed else nullcontext()
    with refusal:
        check_retriever(load_example(tmp_path))


def listed(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "object": "model", "created": 1, "owned_by": "openai"} for name in names]


OPENAI = listed("gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "whisper-1", "dall-e-3", "omni-moderation-latest")


def test_of_a_providers_models_those_for_chat_are_taken() -> None:
    config = engine_config("https://api.openai.com", EngineOption("", "OPENAI_API_KEY"), OPENAI)
    assert list(config["models"]) == ["gpt-4o", "gpt-4o-mini"]
    assert config["paths"] == {"default": {"model": "gpt-4o-mini"}}
    assert config["engines"]["engine-0"] == {
        "model": "gpt-4o", "url": "https://api.openai.com", "api_key_env": "OPENAI_API_KEY",
    }  # fmt: skip


def test_models_may_be_named() -> None:
    option = EngineOption("", models=("gpt-4o", "text-embedding-3-small"))
    assert list(engine_config("https://x", option, OPENAI)["models"]) == ["gpt-4o", "text-embedding-3-small"]
    with pytest.raises(UsageError, match="lists no model 'gpt-5'; it lists: dall-e-3, gpt-4o, gpt-4o-mini"):
        engine_config("https://x", EngineOption("", models=("gpt-5",)), OPENAI)
    with pytest.raises(UsageError, match="lists no model for chat; name one with --model"):
        engine_config("https://x", EngineOption(""), listed("whisper-1"))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (lambda: web.Response(status=401), "answered 401: name the variable with the right key with --key-env"),
        (lambda: web.Response(status=302, headers={"Location": "https://evil/"}), "a redirect to https://evil/, which"),
        (lambda: web.Response(status=404), "answered 404; is --engine an OpenAI-compatible API?"),
        (lambda: web.Response(text="<html>"), "is no list of models in OpenAI's format"),
        (lambda: web.json_response({"data": [{"id": 7}, {}]}), "is no list of models in OpenAI's format"),
        (lambda: web.Response(body=b"x" * 5_000_000), "is larger than 4194304 bytes"),
    ],
)
async def test_what_lists_no_models_is_named(
    vllm: ScriptedEngine, tmp_path: Path, lists: Callable[[], web.Response], message: str
) -> None:
    vllm.lists = lists
    with pytest.raises(UsageError) as error:
        await write(EngineOption(vllm.url), tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one of these: an example folder, an engine that runs already with --engine URL, or a model that"),
        (("examples/minimal", "--engine", "http://x"), "name one of these"),
        (("examples/minimal", "--model", "m"), "name one of these"),
        (("examples/minimal", "--key-env", "K"), "--key-env is for --engine; pointsman.yaml names its own engines"),
        *(
            (("--engine", url), "it should be a URL such as http://localhost:8000")
            for url in ("localhost:8000", "http://localhost:80o0", "http://localhost:99999", "http://[::1")
        ),
        (("--engine", "http://127.0.0.1:1"), "http://127.0.0.1:1/v1/models cannot be read"),
        (("--engine", "http://127.0.0.1:1", "--key-env", "NO_SUCH_KEY"), "that environment variable is not set"),
    ],
)
def test_wrong_options_are_named(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli("up", *arguments, "--data-dir", tmp_path / "home")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_file_that_is_the_whole_configuration_is_an_example_folder(tmp_path: Path) -> None:
    minimal = load_example(ROOT / "examples" / "minimal")
    assert (minimal.base_model, minimal.config) == ("", ROOT / "examples" / "minimal")
    data = yaml.safe_load((ROOT / "examples" / "minimal" / "pointsman.yaml").read_text())
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps({}))
    data["adapters"] = {"triage": {"folder": "adapters", "alias": "prod"}}
    (tmp_path / "pointsman.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError, match="adapters need a base_model"):
        load_example(tmp_path)


async def test_each_listed_base_model_is_an_engine(vllm: ScriptedEngine, tmp_path: Path) -> None:
    cards = [model_card("short", "/m"), model_card("long/name", "/m"), model_card("sql", "/l", "short")]
    vllm.lists = lambda: web.json_response({"data": cards})
    config = load_config(await write(EngineOption(vllm.url), tmp_path), {})
    assert {engine.model for engine in config.models.engines.values()} == {"short", "long/name"}


async def test_names_of_models_are_no_variables(vllm: ScriptedEngine, tmp_path: Path) -> None:
    vllm.lists = lambda: model_list("llama-${VICTIM_SECRET}")
    folder = await write(EngineOption(vllm.url), tmp_path)
    assert list(load_config(folder, {"VICTIM_SECRET": "sk"}).models.models) == ["llama-${VICTIM_SECRET}"]
