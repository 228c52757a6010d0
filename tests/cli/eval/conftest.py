"""Fixtures for `pointsman eval`: a real gateway whose engines return scripted answers, and labelled rows."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.engine import Refusal, ScriptedEngine, answer, running_engine
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours
from tests.gateway.doubles.lora_server import running_lora_server
from tests.gateway.doubles.retriever import running_retriever

ROWS = [
    {
        "text": IN_TRIAGE if number == 0 else f"message {number}",
        "output": {"intent": intent, "urgency": "low"},
        "task": "triage",
    }
    for number, intent in enumerate(["refund", "lost_item"] * 6)
]
"""Rows that the adapter answers correctly; the few-shot path answers every third one correctly, and the default path
none. The classifier recognizes the task of the first row; the other texts resemble no task."""

Rows = Callable[[list[dict[str, Any]]], Path]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    def write(rows: list[dict[str, Any]]) -> Path:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write


def as_trained(body: Mapping[str, Any]) -> Any:
    """Answers like an engine with a trained adapter: all `ROWS` correctly with the adapter, every third with examples
    in the prompt, none otherwise.
    """
    text = body["messages"][-1]["content"]
    row = next((row for row in ROWS if row["text"] == text), ROWS[0])
    right = json.dumps(row["output"])
    if body["model"] == TRIAGE:
        return answer(right, prompt_tokens=10)
    if any(message["role"] == "assistant" for message in body["messages"]):
        return answer(right if ROWS.index(row) % 3 == 0 else "Here you are.", prompt_tokens=100, cached_tokens=40)
    return answer("I do", "n't know.", prompt_tokens=30)


@pytest.fixture
async def neighbours(tmp_path: Path, model_folder: Path) -> AsyncIterator[Neighbours]:
    config = ConfigFolder(tmp_path / "config")
    config.tasks["triage"]["metric"] = {"exact": True}
    async with running_engine() as engine, running_lora_server() as lora_server, running_retriever() as retriever:
        engine.script = as_trained
        yield Neighbours(engine, lora_server, retriever, config, {"embedding_model": model_folder})


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
def engine(neighbours: Neighbours) -> ScriptedEngine:
    return neighbours.engine


def refusing(model: str) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a script like `as_trained`, except that requests for `model` fail."""

    def script(body: Mapping[str, Any]) -> Any:
        refused = Refusal(400, {"error": {"message": "too hot", "type": "BadRequestError", "param": None, "code": 400}})
        return refused if body["model"] == model else as_trained(body)

    return script
