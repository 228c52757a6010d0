"""Real agents call tools under a policy that tries two paths: a conversation keeps its path through all calls."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pointsman_embedding.prepare import prepare

from tests.clients.checks import BASE_MODEL
from tests.clients.scripted_agents import ask_claude_code, ask_codex, ask_strands
from tests.clients.scripted_engine import MODEL, configure
from tests.clients.test_codex import RED_DOT
from tests.gateway.doubles.engine import DONE, ScriptedEngine, Step, answer, chunk, running_engine, usage
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway

CALLS = 3
"""Tool calls of each agent before it answers."""
MAX_CONVERSATIONS = 14
"""With two paths of equal chances, the probability that all take the same one is 1 in 8,192."""
PATHS = {"first": "You are on the first path.", "second": "You are on the second path."}
PROMPT = "Conversation {}: say the words in the files."

Agent = Callable[[str, Path, str], Awaitable[object]]


async def claude_code(url: str, folder: Path, prompt: str) -> object:
    return await ask_claude_code(url, folder, prompt, "--allowedTools", "Read")


AGENTS: Mapping[str, tuple[Agent, str, str]] = {
    "claude-code": (claude_code, "Read", "file_path"),
    "codex": (ask_codex, "view_image", "path"),
    "strands": (ask_strands, "look", "file_path"),
}
"""By name, the agent, a tool of it that reads a file, and the tool's parameter."""


@asynccontextmanager
async def gateway_with_two_paths(folder: Path) -> AsyncIterator[tuple[ProcessGateway, ScriptedEngine]]:
    """Yields a gateway and its engine. The gateway starts each conversation on one of `PATHS`; half of the
    conversations explore the path that it does not prefer.
    """
    prepare(MODEL)
    async with running_engine() as engine:
        config = configure(folder / "config", engine.url)
        config.models["catch_all"] = "auto"
        config.paths |= {
            path: {"model": BASE_MODEL, "strategies": [{"persona": {"prompt": f"{path}.txt"}}]} for path in PATHS
        }
        config.prompts |= {f"{path}.txt": text for path, text in PATHS.items()}
        terms = {"paths": list(PATHS), "quality_floor": 0.5, "exploration_rate": 0.5}
        chat = {"policy": {"best_value": terms}, "rules": [{"name": "all", "regex": "."}]}
        other = {"policy": {"fixed": "first"}}
        config.tasks = {
            name: task | {"examples": f"tasks/{name}.jsonl"} for name, task in {"chat": chat, "policy": other}.items()
        }
        async with process_gateway(folder, config=config.write(), embedding_model=MODEL) as gateway:
            yield gateway, engine


def calling(name: str, parameter: str, file: Path) -> Callable[[Mapping[str, Any]], list[Step]]:
    """Returns a script of the engine that calls the tool `CALLS` times, and then answers."""

    def reply(body: Mapping[str, Any]) -> list[Step]:
        results = sum(message["role"] == "tool" for message in body["messages"])
        if "tools" not in body or results == CALLS:  # without tools: such as a title for the session
            return answer("Wren")
        function = {"name": name, "arguments": json.dumps({parameter: str(file)})}
        call = {"index": 0, "id": f"call_{results}", "type": "function", "function": function}
        return [chunk(tool_calls=[call]), chunk(finish="tool_calls"), usage(900, 20), DONE]

    return reply


def path_of(body: Mapping[str, Any]) -> str:
    """Returns the path whose prompt is in a request to the engine; "another" if it is none of `PATHS`."""
    messages = json.dumps(body["messages"])
    return next((path for path, text in PATHS.items() if text in messages), "another")


@pytest.mark.parametrize("name", AGENTS)
async def test_no_loop_of_tool_calls_changes_its_path(name: str, tmp_path: Path) -> None:
    agent, tool, parameter = AGENTS[name]
    file = tmp_path / "word.png"
    file.write_bytes(RED_DOT)
    async with gateway_with_two_paths(tmp_path) as (gateway, engine):
        engine.script = calling(tool, parameter, file)
        begun: set[str] = set()
        for number in range(MAX_CONVERSATIONS):
            engine.bodies.clear()
            await agent(gateway.url, tmp_path, PROMPT.format(number))
            loop = [path_of(body) for body in engine.bodies if "tools" in body]
            assert len(loop) == CALLS + 1
            assert len(set(loop)) == 1, (number, loop)
            begun.add(loop[0])
            if number >= 3 and begun == set(PATHS):
                break
        assert begun == set(PATHS)
