"""The classifier does not read what real agents write around their user's words."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pointsman_embedding.prepare import prepare

from tests.clients.checks import BASE_MODEL
from tests.clients.scripted_agents import ask_aider, ask_claude_code, ask_codex, ask_opencode
from tests.clients.scripted_engine import MODEL, configure
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, answer, running_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway

QUESTION = "May I take my bicycle on the train?"
TASK = "policy"

AGENTS: Mapping[str, Callable[[str, Path, str], Awaitable[object]]] = {
    "claude-code": ask_claude_code,
    "codex": ask_codex,
    "opencode": ask_opencode,
    "aider": ask_aider,
}


def with_tasks(config: ConfigFolder) -> ConfigFolder:
    config.models["catch_all"] = "auto"
    config.paths["plain"] = {"model": BASE_MODEL}
    config.tasks = {
        name: {"policy": {"fixed": "plain"}, "examples": f"tasks/{name}.jsonl"} for name in (TASK, "chat", "triage")
    }
    config.rest_of_tasks["default_path"] = "plain"
    return config


async def decide(gateway: ProcessGateway, messages: list[dict[str, Any]]) -> dict[str, Any]:
    body = {"model": "auto", "messages": messages}
    async with aiohttp.ClientSession(gateway.url) as session, session.post("/v1/route", json=body) as response:
        decision: dict[str, Any] = await response.json()
        return decision


def asked(engine: ScriptedEngine) -> list[dict[str, Any]]:
    """Returns the longest conversation with the question, as the agent sent it. Agents also send shorter ones, such as
    for a title.
    """
    with_question = [body["messages"] for body in engine.bodies if QUESTION in str(body["messages"])]
    return max(with_question, key=lambda messages: len(str(messages)))


@pytest.mark.parametrize("name", AGENTS)
async def test_the_users_words_are_found_in_what_an_agent_sends(name: str, tmp_path: Path) -> None:
    prepare(MODEL)
    folder = tmp_path / "work"
    folder.mkdir()
    async with running_engine() as engine:
        engine.says(*answer("Yes, in the last coach."))
        config = with_tasks(configure(tmp_path / "config", engine.url))
        async with process_gateway(tmp_path, config=config.write(), embedding_model=MODEL) as gateway:
            await AGENTS[name](gateway.url, folder, QUESTION)
            messages = asked(engine)
            decision = await decide(gateway, messages)
    last = [message["content"] for message in messages if message["role"] == "user"][-1]
    assert decision.get("user_words", last) == QUESTION, (decision, last)
    assert decision["task"] == TASK, decision
