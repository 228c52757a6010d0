"""The demo of the example: it fits a terminal of 100 columns, and checks its own answers."""

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

FILE = Path(__file__).parents[2] / "examples/helpdesk/demo.py"


@pytest.fixture(scope="module")
def demo() -> Any:
    spec = importlib.util.spec_from_file_location("demo_of_the_help_desk", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def outcome(demo: Any, task: str, answer: str) -> Any:
    return demo.Outcome(task, 0.98, "some_path", "rag", 0.5, 2.25, 269, 41, 0.0000065, answer)


def test_an_answer_with_all_facts_is_right(demo: Any) -> None:
    question = demo.Question("?", "policy_question", facts=(("28 days", "four weeks"),))
    assert demo.mistakes(question, outcome(demo, "policy_question", "Within four weeks.")) == []


def test_wrong_tasks_missing_facts_and_forbidden_texts_are_named(demo: Any) -> None:
    question = demo.Question("?", "policy_question", facts=(("28 days",),), never=("No, ",))
    assert demo.mistakes(question, outcome(demo, "chat", "No, never.")) == [
        "the task is policy_question",
        "lacks '28 days'",
        "should not say 'No,'",
    ]


def test_structured_answers_are_compared_as_json(demo: Any) -> None:
    question = demo.Question("?", "triage", output={"intent": "thanks", "slots": {}})
    assert demo.mistakes(question, outcome(demo, "triage", '{"slots": {}, "intent": "thanks"}')) == []
    assert demo.mistakes(question, outcome(demo, "triage", "thanks")) == ['expected {"intent": "thanks", "slots": {}}']


def test_every_question_fits_100_columns_with_a_verdict(demo: Any) -> None:
    screen = io.StringIO()
    for number, question in enumerate(demo.QUESTIONS, 1):
        demo.show(Console(file=screen, width=demo.WIDTH), number, question, outcome(demo, "chat", "word " * 90 + "[x]"))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("    wrong:") for line in lines) == len(demo.QUESTIONS) - 1
    assert "    right" in [line.rstrip() for line in lines]
