"""Fixtures for `pointsman eval`: a real gateway whose engines return scripted answers, and labelled rows."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli import scored_gateway
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import Refusal, Script, answer
from tests.gateway.doubles.gateway import TRIAGE

# Fixtures, which pytest finds here by their names.
engine, gateway, neighbours, triage = (
    scored_gateway.engine,
    scored_gateway.gateway,
    scored_gateway.neighbours,
    scored_gateway.triage,
)

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
def engine_script() -> Script:
    return as_trained


def refusing(model: str) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a script like `as_trained`, except that requests for `model` fail."""

    def script(body: Mapping[str, Any]) -> Any:
        refused = Refusal(400, {"error": {"message": "too hot", "type": "BadRequestError", "param": None, "code": 400}})
        return refused if body["model"] == model else as_trained(body)

    return script
