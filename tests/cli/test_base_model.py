"""`pointsman up --model` and `base_model:` take a folder or a name at the Hugging Face hub; an error says why a model
cannot be served."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import (
    BaseModel,
    find_engine,
    locate_base_model,
    prepare_model,
    write_model_config,
)
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.example import load_example
from pointsman_cli.up.plan import Programs, make_plan
from pointsman_gateway.config.load import load_config
from pointsman_lora_server.base_model import BaseModelError
from pointsman_lora_server.base_source import GIB, check_fit, inspect
from safetensors.numpy import save_file

from tests.cli.test_plan import ADDRESSES
from tests.gateway.doubles.http_server import serving

Cli = Callable[..., Any]
CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048, "model_type": "llama"}
LAYER = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with all files of a model, whose only layer is all zeros."""
    folder = tmp_path / "tiny-chat"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    save_file({LAYER: np.zeros((4, 4), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def at(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "home")


def test_a_folder_a_hub_name_and_the_built_in_model_are_told_apart(model: Path, at: DataDir) -> None:
    assert locate_base_model("tiny-chat", model.parent, at) == BaseModel("tiny-chat", model)
    assert locate_base_model(str(model), Path("/"), at).folder == model
    hub = locate_base_model("Qwen/Qwen2.5-7B-Instruct", model.parent, at)
    assert (hub.name, hub.folder) == ("Qwen/Qwen2.5-7B-Instruct", at.model("hub") / "Qwen" / "Qwen2.5-7B-Instruct")
    built_in = locate_base_model("smollm2-135m", model.parent, at)
    assert (built_in.is_built_in, built_in.folder) == (True, at.model("smollm2-135m"))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("smollm2", "is neither smollm2-135m, nor a folder, nor a name at the Hugging Face hub such as"),
        ("smollm-135m", "did you mean smollm2-135m?"),
        ("./nowhere/model", "is neither smollm2-135m, nor a folder"),
        ("a/b/c", "is neither smollm2-135m, nor a folder"),
    ],
)
def test_a_name_that_is_none_is_refused(at: DataDir, tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        locate_base_model(written, tmp_path, at)
    assert message in str(error.value)


def test_context_window_template_and_module_table_are_read_from_the_folder(model: Path) -> None:
    assert inspect(model) == {
        "context_window": 2048, "weight_bytes": (model / "model.safetensors").stat().st_size, "layers": 1,
        "has_chat_template": True, "architecture": "LlamaForCausalLM",
    }  # fmt: skip
    nested = {"architectures": ["X"], "text_config": {"max_position_embeddings": 512}}
    (model / "config.json").write_text(json.dumps(nested))
    assert inspect(model)["context_window"] == 512


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda m: (m / "config.json").unlink(), "is no model in Hugging Face's format: it has no config.json"),
    (lambda m: (m / "config.json").write_text("["), "config.json cannot be read"),
    (lambda m: (m / "config.json").write_text("{}"), "states no context window (max_position_embeddings"),
    (lambda m: (m / "model.safetensors").unlink(), "has no *.safetensors; convert its weights"),
    (lambda m: (m / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors is damaged"),
    (lambda m: (m / "tokenizer.json").unlink(), "has no tokenizer"),
    (
        lambda m: (m / "adapter_config.json").write_text('{"base_model_name_or_path": "llama"}'),
        "is an adapter; serve 'llama', and register the adapter",
    ),
    (
        lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
        "is incomplete: model-2.safetensors is missing, of 1 files of weights",
    ),
    (
        lambda m: save_file({"model.norm.weight": np.zeros(4, np.float32)}, m / "model.safetensors"),
        "has no linear layers that adapters could change",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_a_folder_that_is_no_model_is_named(model: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(model)
    with pytest.raises(BaseModelError) as error:
        inspect(model)
    assert message in str(error.value)


def test_a_model_that_does_not_fit_is_named_with_the_sizes() -> None:
    check_fit(4 * GIB, 0, 8 * GIB)
    check_fit(4 * GIB, 8 * GIB, 0)
    with pytest.raises(BaseModelError, match=r"weights take 15.0 GiB, .* its GPUs have 16.0 GiB of free memory"):
        check_fit(15 * GIB, 16 * GIB, 512 * GIB)
    with pytest.raises(BaseModelError, match=r"weights take 15.0 GiB, .* it has 7.0 GiB of free memory"):
        check_fit(15 * GIB, 0, 7 * GIB)


async def prepared(model: BaseModel, at: DataDir, *arguments: str) -> BaseModel:
    """Prepares the model with the test's own Python, which has the necessary packages."""
    lines: list[str] = []
    found = await prepare_model(model, find_engine(at, Path(sys.executable)), arguments, lines.append)
    assert "adaptable layers" in lines[-1]
    return found


async def test_up_writes_a_configuration_and_starts_vllm_with_the_model(
    model: Path, at: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTSMAN_LORA_ENGINE_ARGS", "--seed 1")
    located = locate_base_model(str(model), Path("/"), at)
    base = await prepared(located, at, "--enforce-eager", "--load-format=a b")
    folder = write_model_config(base, "", at)
    config = load_config(folder, {"POINTSMAN_LORA_SERVER": "127.0.0.1:8083"})
    assert config.models.models["tiny-chat"].context_window == 2048
    plan = make_plan(load_example(folder), at, ADDRESSES, Programs(Path("/engine/python"), Path("/valkey")), base)
    assert plan.lora_server
    environment = plan.lora_server.environment
    assert environment["POINTSMAN_LORA_BASE_MODEL"] == str(model)
    assert environment["POINTSMAN_LORA_SERVED_MODEL_NAME"] == "tiny-chat"
    assert environment["POINTSMAN_LORA_MAX_MODEL_LEN"] == "2048"
    assert environment["POINTSMAN_LORA_ENGINE_ARGS"] == "--seed 1 --enforce-eager '--load-format=a b'"


async def test_a_long_context_window_is_cut_unless_the_setting_says_otherwise(
    model: Path, at: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "config.json").write_text(json.dumps({**CONFIG, "max_position_embeddings": 131072}))
    located = locate_base_model(str(model), Path("/"), at)
    assert (await prepared(located, at)).context_window in (8192, 32768)
    monkeypatch.setenv("POINTSMAN_LORA_MAX_MODEL_LEN", "100000")
    assert (await prepared(located, at)).context_window == 100000
    monkeypatch.setenv("POINTSMAN_LORA_MAX_MODEL_LEN", "0")
    assert (await prepared(located, at)).context_window == 131072


@pytest.mark.parametrize("written", ["4k", "-1", "4096.0", "\u0664"])
async def test_a_context_window_that_is_no_whole_number_is_refused(
    model: Path, at: DataDir, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("POINTSMAN_LORA_MAX_MODEL_LEN", written)
    problem = f"POINTSMAN_LORA_MAX_MODEL_LEN is '{written}'; write the tokens .* such as 4096, or 0 for"
    with pytest.raises(UsageError, match=problem):
        await prepared(locate_base_model(str(model), Path("/"), at), at)


async def test_a_model_without_a_chat_template_is_refused_unless_one_is_named(model: Path, at: DataDir) -> None:
    (model / "chat_template.jinja").unlink()
    located = locate_base_model(str(model), Path("/"), at)
    with pytest.raises(CommandError, match="tiny-chat has no chat template"):
        await prepared(located, at)
    await prepared(located, at, "--chat-template=chatml.jinja")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "smollm3"), "base model 'smollm3' is neither smollm2-135m"),
        (("--model", "a/b", "--model", "c/d"), "vLLM serves one model; --model is given 2 times"),
        (("examples/minimal", "--model", "a/b"), "name one of these: an example folder"),
        (("examples/minimal", "--engine-arg", "--seed=1"), "--engine-arg is for the vLLM that `pointsman up` starts"),
    ],
)
def test_wrong_options_of_up_are_named(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli("up", *arguments, "--data-dir", tmp_path / "home", "--engine-python", sys.executable)
    assert (outcome.code, message in outcome.err) == (2, True), outcome.err


def test_up_names_a_folder_that_is_no_model(cli: Cli, model: Path, tmp_path: Path) -> None:
    (model / "config.json").unlink()
    outcome = cli("up", "--model", model, "--data-dir", tmp_path / "home", "--engine-python", sys.executable)
    assert outcome.code == 1
    assert f"base model tiny-chat: {model} is no model in Hugging Face's format" in outcome.err


@asynccontextmanager
async def running_hub(status: int, headers: dict[str, str]) -> AsyncIterator[str]:
    """Runs a hub that answers every request with an error."""

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with serving(app) as url:
        yield url


async def download(hub: str, folder: Path, name: str = "Qwen/Qwen9") -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "pointsman_lora_server.base_source", str(folder), "--hub", name]
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    return await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (
            404,
            "RepoNotFound",
            "the Hugging Face hub has no model 'Qwen/Qwen9', or none that may be read without HF_TOKEN",
        ),
        (403, "GatedRepo", "Qwen/Qwen9 is gated: accept its licence at https://huggingface.co/Qwen/Qwen9"),
        (500, "", "'Qwen/Qwen9' cannot be downloaded: the Hugging Face hub is not reachable"),
    ],
)
async def test_what_the_hub_refuses_is_named(tmp_path: Path, status: int, code: str, message: str) -> None:
    async with running_hub(status, {"X-Error-Code": code} if code else {}) as hub:
        ended = await download(hub, tmp_path / "model")
    assert (ended.returncode, message in ended.stderr) == (1, True), ended.stderr


async def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    ended = await download("http://127.0.0.1:9", tmp_path / "model")
    assert ended.returncode == 1
    assert "'Qwen/Qwen9' cannot be downloaded: the Hugging Face hub is not reachable" in ended.stderr
    assert "name a local folder" in ended.stderr


async def test_a_name_that_the_hub_cannot_have_is_refused(tmp_path: Path) -> None:
    ended = await download("http://127.0.0.1:9", tmp_path / "model", "a/b/c")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: 'a/b/c' is no name at the Hugging Face hub (OWNER/NAME): ")


async def test_a_model_that_was_downloaded_is_used_without_the_hub(model: Path) -> None:
    ended = await download("http://127.0.0.1:9", model)
    assert ended.returncode == 0, ended.stderr
    assert f"Returning existing local_dir `{model}` as remote repo cannot be accessed" in ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["layers"] == 1
