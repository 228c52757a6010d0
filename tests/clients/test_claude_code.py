"""Claude Code, headless, completes one turn against a gateway with a scripted engine.

`make test-claude-code` installs it. No small model can read its prompt, which has some ten thousand tokens.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pointsman_embedding.prepare import prepare

from tests.clients.scripted_agents import ask_claude_code
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import DONE, ScriptedEngine, Step, answer, chunk, running_engine, usage
from tests.gateway.doubles.lora_server import READY, running_lora_server
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.running_example import ROOT

MODEL = ROOT / ".pointsman/models/minilm"
PROMPT = "Say the word in the file word.txt."


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with running_engine() as engine:
        yield engine


@pytest.fixture
async def gateway(tmp_path: Path, engine: ScriptedEngine) -> AsyncIterator[ProcessGateway]:
    """Runs a gateway on which all of Claude Code's model names mean one path, as with `catch_all`."""
    prepare(MODEL)
    config = ConfigFolder(tmp_path / "config")
    config.models["catch_all"] = "tiny"
    async with running_lora_server() as lora_server:
        await lora_server.say(READY, url=engine.url, resident=[], aliases={})
        config.models["engines"]["local"]["lora_server"] = lora_server.address
        async with process_gateway(tmp_path, config=config.write(), embedding_model=MODEL) as gateway:
            yield gateway


async def test_one_turn_is_completed(gateway: ProcessGateway, engine: ScriptedEngine, tmp_path: Path) -> None:
    engine.says(*answer("The word", " is Wren.", prompt_tokens=900))
    report = await ask_claude_code(gateway.url, tmp_path, PROMPT)
    assert (report["is_error"], report["result"]) == (False, "The word is Wren.")
    assert PROMPT in json.dumps(engine.bodies[-1]["messages"])
    assert engine.bodies[-1]["tools"]


async def test_a_tool_is_called_and_its_result_is_sent_back(
    gateway: ProcessGateway, engine: ScriptedEngine, tmp_path: Path
) -> None:
    word = tmp_path / "word.txt"
    word.write_text("Wren\n")

    def reply(body: Any) -> list[Step]:
        if "tools" not in body:  # such as a title for the session
            return answer("A word")
        if body["messages"][-1]["role"] == "tool":
            return answer("Wren")
        call = {"name": "Read", "arguments": json.dumps({"file_path": str(word)})}
        calls = [{"index": 0, "id": "call_0", "type": "function", "function": call}]
        return [chunk(tool_calls=calls), chunk(finish="tool_calls"), usage(900, 20), DONE]

    engine.script = reply
    report = await ask_claude_code(gateway.url, tmp_path, PROMPT, "--allowedTools", "Read")
    assert (report["is_error"], report["result"], report["num_turns"]) == (False, "Wren", 2)
    results = [m["content"] for body in engine.bodies for m in body["messages"] if m["role"] == "tool"]
    assert any("Wren" in result for result in results)
