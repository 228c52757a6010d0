"""Codex sends pictures to a gateway with a scripted engine: one that is attached, and one that its tool reads."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scripted_engine import scripted_help_desk
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.running_example import ROOT

CODEX = ROOT / ".venv-clients/codex/node_modules/.bin/codex"
SECONDS = 240
RED_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[tuple[ProcessGateway, ScriptedEngine]]:
    (tmp_path / "picture.png").write_bytes(base64.b64decode(RED_DOT))
    async with scripted_help_desk(tmp_path) as desk:
        yield desk


async def codex(gateway: ProcessGateway, folder: Path, *arguments: str) -> Sequence[str]:
    """Returns the texts of the answer."""
    assert CODEX.exists(), "run `make test-clients CLIENTS=codex`, which installs it"
    (folder / "home").mkdir()
    provider = f'{{name = "Pointsman", base_url = "{gateway.url}/v1", wire_api = "responses", request_max_retries = 0}}'
    process = await asyncio.create_subprocess_exec(
        str(CODEX), "exec", "--json", "--skip-git-repo-check", "--sandbox", "read-only", "--cd", str(folder),
        "--config", 'model_provider="pointsman"', "--config", f"model_providers.pointsman={provider}",
        "--model", "codex", *arguments,
        env={**os.environ, "CODEX_HOME": str(folder / "home")}, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            out, problems = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, (out, problems)
    events = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    return [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]


def pictures(body: Any) -> list[str]:
    """Returns the pictures in the messages that the engine gets."""
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


async def test_a_picture_that_is_attached_reaches_the_engine(
    desk: tuple[ProcessGateway, ScriptedEngine], tmp_path: Path
) -> None:
    gateway, engine = desk

    (answer,) = await codex(gateway, tmp_path, "What is to be seen?", "--image", str(tmp_path / "picture.png"))

    assert answer
    (picture,) = pictures(engine.bodies[0])
    assert picture.startswith("data:image/png;base64,")


async def test_a_picture_that_its_tool_reads_reaches_the_engine(
    desk: tuple[ProcessGateway, ScriptedEngine], tmp_path: Path
) -> None:
    gateway, engine = desk

    (answer,) = await codex(gateway, tmp_path, "Look with view_image.")

    assert answer
    first, second = engine.bodies
    assert pictures(first) == []
    (picture,) = pictures(second)
    assert picture.startswith("data:image/png;base64,")
    called = [call["function"]["name"] for message in second["messages"] for call in message.get("tool_calls") or ()]
    assert called == ["view_image"]
