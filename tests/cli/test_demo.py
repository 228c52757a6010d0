"""The demo of the example: it fits a terminal of 100 columns, and checks its own answers."""

import dataclasses
import importlib.util
import io
import json
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


def right_outcomes(demo: Any) -> list[Any]:
    """Returns a right outcome of each question, along all kinds of path."""
    return [
        dataclasses.replace(
            outcome(demo, question.task, " ".join(fact for fact, *_ in question.facts) or "Hello"),
            kind=demo.KINDS[number % len(demo.KINDS)],
            **({"answer": json.dumps(question.output)} if question.output else {}),
        )
        for number, question in enumerate(demo.QUESTIONS)
    ]


@pytest.mark.parametrize(("wrong", "found"), [(0, []), (3, []), (4, ["7 of 11 answers are right, fewer than 8"])])
def test_the_demo_fails_below_eight_right_answers(demo: Any, wrong: int, found: list[str]) -> None:
    outcomes = right_outcomes(demo)
    outcomes[:wrong] = [dataclasses.replace(one, answer="No idea.") for one in outcomes[:wrong]]
    assert demo.shortcomings(outcomes) == found


def test_the_demo_fails_if_a_kind_of_path_or_an_answer_is_missing(demo: Any) -> None:
    outcomes = [
        dataclasses.replace(one, kind="rag" if one.kind == "lora" else one.kind) for one in right_outcomes(demo)
    ]
    outcomes[-2] = dataclasses.replace(outcomes[-2], answer=" ")
    assert demo.shortcomings(outcomes) == [
        "fewer than 2 answers by: lora",
        "empty answers to: hello there, how are you today?",
    ]


def test_no_question_is_in_the_training_data(demo: Any) -> None:
    files = [*FILE.parent.glob("training/*.jsonl"), *FILE.parent.glob("config/tasks/*.jsonl")]
    learnt = {simplified(json.loads(line)["text"]) for file in files for line in file.read_text("utf-8").splitlines()}
    assert len(learnt) > 500
    assert [one.text for one in demo.QUESTIONS if simplified(one.text) in learnt] == []


def simplified(text: str) -> str:
    """Returns the words of a text without case and punctuation."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def test_every_question_fits_100_columns_with_a_verdict(demo: Any) -> None:
    screen = io.StringIO()
    for number, question in enumerate(demo.QUESTIONS, 1):
        demo.show(Console(file=screen, width=demo.WIDTH), number, question, outcome(demo, "chat", "word " * 90 + "[x]"))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("    wrong:") for line in lines) == len(demo.QUESTIONS) - 1
    assert "    right" in [line.rstrip() for line in lines]
