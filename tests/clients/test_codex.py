"""Codex sends pictures to a gateway with a scripted engine: one that is attached, and one that its tool reads."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scripted_agents import ask_codex
from tests.clients.scripted_engine import scripted_help_desk
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.process_gateway import ProcessGateway

RED_DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[tuple[ProcessGateway, ScriptedEngine]]:
    (tmp_path / "picture.png").write_bytes(RED_DOT)
    async with scripted_help_desk(tmp_path) as desk:
        yield desk


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

    (answer,) = await ask_codex(gateway.url, tmp_path, "What is to be seen?", "--image", str(tmp_path / "picture.png"))

    assert answer
    (picture,) = pictures(engine.bodies[0])
    assert picture.startswith("data:image/png;base64,")


async def test_a_picture_that_its_tool_reads_reaches_the_engine(
    desk: tuple[ProcessGateway, ScriptedEngine], tmp_path: Path
) -> None:
    gateway, engine = desk

    (answer,) = await ask_codex(gateway.url, tmp_path, "Look with view_image.")

    assert answer
    first, second = engine.bodies
    assert pictures(first) == []
    (picture,) = pictures(second)
    assert picture.startswith("data:image/png;base64,")
    called = [call["function"]["name"] for message in second["messages"] for call in message.get("tool_calls") or ()]
    assert called == ["view_image"]
