"""`pointsman doctor --engine NAME` sends real requests to one engine of a configuration, and says what is wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.doubles.engine import (
    DONE,
    ScriptedEngine,
    answer,
    beginning,
    chunk,
    model_list,
    no_such_model,
    running_engine,
)

MINIMAL = Path(__file__).parents[2] / "examples" / "minimal"
Cli = Callable[..., Any]


@pytest.fixture
async def vllm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedEngine]:
    """Runs a double of the vLLM in `examples/minimal`."""
    async with running_engine() as vllm:
        vllm.lists = lambda: model_list("llama-3.1-8b", {"triage": "/loras/triage", "other": "/loras/other"})
        vllm.script = lambda body: answer("Hi")
        monkeypatch.setenv("VLLM_URL", vllm.url)
        monkeypatch.setenv("OPENAI_URL", vllm.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        yield vllm


async def check(cli: Cli, name: str) -> tuple[int, list[str]]:
    """Runs `doctor` for an engine, and returns the exit code and the lines."""
    outcome = await asyncio.to_thread(cli, "doctor", MINIMAL, "--engine", name)
    return outcome.code, outcome.out.splitlines()


async def test_a_good_engine_passes_and_the_missing_guarantees_are_named(cli: Cli, vllm: ScriptedEngine) -> None:
    code, lines = await check(cli, "mine")
    assert code == 0, lines
    assert lines[0] == "ok   mine: models: it lists 'llama-3.1-8b' among 3"
    assert lines[1] == "ok   mine: adapters: it lists 'other', 'triage'"
    assert lines[2].startswith("warn mine: guarantees: the same name may come to mean other weights")
    assert lines[3].startswith("ok   mine: chat with llama-3.1-8b: streams; the first token came after")
    assert lines[4] == "ok   mine: usage: 20 prompt, 1 completion"
    assert lines[5].startswith("ok   mine: chat with triage")
    assert [body["model"] for body in vllm.bodies] == ["llama-3.1-8b", "triage"]
    assert all(body["max_tokens"] == 1 and body["stream"] for body in vllm.bodies)


async def test_a_key_that_is_not_needed_and_a_model_that_is_not_listed_are_warnings(
    cli: Cli, vllm: ScriptedEngine
) -> None:
    code, lines = await check(cli, "openai")
    assert code == 0, lines
    assert lines[0].startswith("warn openai: models: it does not list 'gpt-4o-mini'; it lists 'llama-3.1-8b'")
    assert lines[1].startswith("warn openai: key: it lists its models without a key too")


@pytest.mark.parametrize(
    ("bend", "line"),
    [
        (
            lambda e: setattr(e, "lists", lambda: model_list("llama-3.1-8b")),
            "fail mine: adapters: a path needs 'triage'; it lists none",
        ),
        (
            lambda e: setattr(e, "lists", lambda: model_list("qwen")),
            "fail mine: adapters: it serves 'qwen', not 'llama-3.1-8b' as the configuration says",
        ),
        (
            lambda e: setattr(e, "lists", lambda: web.Response(status=404)),
            "answered 404: `adapters: discover` needs an engine that lists its models",
        ),
        (lambda e: e.refuses(401, {"error": {"message": "bad key"}}), "fail mine: chat with llama-3.1-8b: "),
        (lambda e: setattr(e, "script", lambda body: no_such_model(body["model"])), "does not exist"),
        (
            lambda e: e.says(*beginning("Hi"), chunk("", finish="stop"), DONE),
            "fail mine: usage: the stream states none, so tokens would be estimated",
        ),
    ],
)
async def test_what_fails_is_named_and_the_exit_code_says_so(
    cli: Cli, vllm: ScriptedEngine, bend: Callable[[ScriptedEngine], None], line: str
) -> None:
    bend(vllm)
    code, lines = await check(cli, "mine")
    assert code == 1
    assert any(line in one for one in lines), lines


async def test_an_unknown_engine_and_a_missing_key_are_named(
    cli: Cli, vllm: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await check(cli, "his") == (1, ["fail his: there is no engine 'his'; known: mine, openai"])
    monkeypatch.delenv("OPENAI_API_KEY")
    code, lines = await check(cli, "openai")
    assert code == 1
    assert "needs the environment variable OPENAI_API_KEY, which is not set" in lines[0]
