"""A configuration may have no tasks: `auto` takes the default path, and nothing that classifies or embeds is loaded."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pointsman_gateway.bootstrap.embeddings import needs_models
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.extensions import Strategy

from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.waiting import until
from tests.gateway.test_process import addresses, start

ONE_PATH: dict[str, Any] = {
    "prices_as_of": "2026-11-01",
    "models": {"tiny": {"context_window": 4096, "usd_per_million_tokens": "unknown"}},
    "engines": {"mine": {"model": "tiny", "url": "http://127.0.0.1:9"}},
    "paths": {"only": {"model": "tiny"}},
}
TWO_PATHS = ONE_PATH | {"paths": {"one": {"model": "tiny"}, "two": {"model": "tiny"}}}
MAX_RESIDENT_MB = 100
"""The gateway takes 88 MB; the rest is for other versions of Python and of the libraries."""


def write(folder: Path, data: dict[str, Any]) -> Path:
    (folder / "pointsman.yaml").write_text(yaml.safe_dump(data))
    return folder


@pytest.mark.parametrize(
    ("data", "default_path"),
    [
        (ONE_PATH, "only"),
        (ONE_PATH | {"tasks": {}}, "only"),
        (TWO_PATHS | {"default_path": "two"}, "two"),
    ],
)
def test_the_default_path_is_the_one_that_is_named_or_the_only_one(
    tmp_path: Path, data: dict[str, Any], default_path: str
) -> None:
    config = load_config(write(tmp_path, data), {})
    assert (config.tasks.default_path, config.tasks.tasks) == (default_path, {})


def test_among_several_paths_the_default_path_must_be_named(tmp_path: Path) -> None:
    message = "'default_path' is missing; without it there must be exactly one path, and there are 2: one, two"
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, TWO_PATHS), {})


def test_a_folders_tasks_file_may_have_no_tasks(config_folder: ConfigFolder) -> None:
    del config_folder.paths["triage_few_shot"]
    config_folder.tasks = {}
    assert load_config(config_folder.write(), {}).tasks.tasks == {}


def test_a_path_must_not_show_the_examples_of_removed_tasks(config_folder: ConfigFolder) -> None:
    config_folder.tasks = {}
    with pytest.raises(ConfigError, match="'triage_few_shot' names the examples of task 'triage'; known: none"):
        load_config(config_folder.write(), {})


class Own(Strategy):
    """A strategy that does not say whether it embeds."""

    Options = bool


EMBEDS: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, False),
    "instructions": ({"strategies": [{"persona": {"prompt": "p"}}, {"zero_shot": {"prompt": "p"}}]}, False),
    "retrieval": ({"strategies": [{"retrieval": {"collection": "c", "prompt": "p"}}]}, False),
    "exact cache": ({"cache": {}}, False),
    "semantic cache": ({"cache": {"similarity_threshold": 0.95}}, True),
    "own strategy": ({"strategies": [{"tests.gateway.test_no_tasks:Own": True}]}, True),
}


@pytest.mark.parametrize("uses", EMBEDS)
def test_the_embedding_model_is_needed_only_if_something_embeds(tmp_path: Path, uses: str) -> None:
    path, needed = EMBEDS[uses]
    rest = {
        "prompts": {"p": "Be brief."},
        "cache": {"usd_per_hit": 0},
        "retrieval": {"usd_per_search": 0, "usd_per_embedding": 0},
    }
    config = load_config(write(tmp_path, ONE_PATH | rest | {"paths": {"only": {"model": "tiny", **path}}}), {})
    assert needs_models(config) is needed


def test_the_embeddings_endpoint_needs_the_embedding_model(tmp_path: Path) -> None:
    served = {"embeddings": {"minilm": {"local": True, "usd_per_million_tokens": 0}}}
    assert needs_models(load_config(write(tmp_path, ONE_PATH | served), {}))


class TestServing:
    """Tests with a running gateway whose folder has no embedding model."""

    @pytest.fixture
    def neighbours(self, neighbours: Neighbours, tmp_path: Path) -> Neighbours:
        del neighbours.config.paths["triage_few_shot"]
        neighbours.config.tasks = {}
        neighbours.settings |= {"embedding_model": tmp_path / "none", "reload_seconds": 0.05}
        return neighbours

    async def test_auto_takes_the_default_path_and_says_why(self, api: ApiClient) -> None:
        got = await api.ask(IN_CHAT)
        assert (got.path, got.kind) == ("safe_start", "rag")
        decision = await api.route(IN_CHAT)
        assert (decision["task"], decision["reason"], decision["stage"]) == ("unknown", "no_tasks", "no_tasks")
        assert list(decision["notes"]) == ["the configuration has no tasks"]

    async def test_a_named_path_is_taken(self, api: ApiClient) -> None:
        assert (await api.ask(IN_CHAT, "path:small_talk")).path == "small_talk"
        assert (await api.route(IN_CHAT, "path:small_talk"))["reason"] == "forced"

    async def test_added_tasks_are_rejected_without_an_embedding_model(
        self, gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
    ) -> None:
        neighbours.config.tasks = two_tasks()
        neighbours.config.write()
        await until(lambda: gateway.components.reloader.status.problem)
        assert "no embedding model in " in gateway.components.reloader.status.problem
        assert (await decide(http, IN_CHAT))["reason"] == "no_tasks"


def two_tasks() -> dict[str, Any]:
    return {
        "chat": {"examples": "tasks/chat.jsonl", "policy": {"fixed": "small_talk"}},
        "policy": {"examples": "tasks/policy.jsonl", "policy": {"fixed": "handbook"}},
    }


async def decide(http: httpx.AsyncClient, text: str) -> dict[str, Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    found: dict[str, Any] = (await http.post("/v1/route", json=body)).json()
    return found


class TestReloading:
    @pytest.fixture
    def neighbours(self, neighbours: Neighbours) -> Neighbours:
        del neighbours.config.paths["triage_few_shot"]
        neighbours.config.tasks = {}
        neighbours.settings["reload_seconds"] = 0.05
        return neighbours

    async def test_tasks_are_added_and_removed_while_it_serves(
        self, gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
    ) -> None:
        edits: list[tuple[dict[str, Any], str, str]] = [
            (two_tasks(), "policy:fixed", "abstained"),
            ({}, "no_tasks", "no_tasks"),
            (two_tasks(), "policy:fixed", "abstained"),
        ]
        assert (await decide(http, IN_CHAT))["reason"] == "no_tasks"
        for tasks, in_chat, in_none in edits:
            before = gateway.components.reloader.current.revision
            neighbours.config.tasks = tasks
            neighbours.config.write()
            await until(changed(gateway, before), within=30)
            assert (await decide(http, IN_CHAT))["reason"] == in_chat
            assert (await decide(http, IN_NONE))["reason"] == in_none
        assert gateway.components.reloader.status.problem == ""


def changed(gateway: Gateway, before: str) -> Callable[[], bool]:
    return lambda: gateway.components.reloader.current.revision != before


@pytest.fixture
async def process(tmp_path: Path, engine: ScriptedEngine) -> AsyncIterator[asyncio.subprocess.Process]:
    config = write(tmp_path, ONE_PATH | {"engines": {"mine": {"model": "tiny", "url": engine.url}}})
    listens = {"http_listen": "127.0.0.1:0", "grpc_listen": "127.0.0.1:0", "shutdown_delay": "0"}
    process = await start(config=str(config), embedding_model=str(tmp_path / "none"), **listens)
    yield process
    process.kill()
    await process.communicate()


async def test_the_process_loads_no_model_and_no_library_for_one(process: asyncio.subprocess.Process) -> None:
    address, _ = await addresses(process)
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=10, verify=False) as http:
        for number in range(50):
            body = {"model": "auto", "messages": [{"role": "user", "content": f"Hello {number}"}]}
            answered = await http.post("/v1/chat/completions", json=body)
            assert answered.headers["x-pointsman-reason"] == "no_tasks", answered.text
    of_process = Path("/proc", str(process.pid))
    loaded = of_process.joinpath("maps").read_text()
    assert "grpc" in loaded
    for library in ("onnxruntime", "numpy", "tokenizers", "scipy", "rapidfuzz", "jsonschema_rs", "pycld2"):
        assert library not in loaded
    (resident,) = re.findall(r"^VmRSS:\s+(\d+) kB", of_process.joinpath("status").read_text(), re.M)
    assert int(resident) * 1024 / 1e6 < MAX_RESIDENT_MB
