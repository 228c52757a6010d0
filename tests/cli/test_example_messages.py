"""The messages of `examples/messages` are those of the help desk, and no test message is among the labelled ones."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def messages(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / "messages" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def rows_of(name: str) -> dict[str, Any]:
    rows = map(json.loads, (EXAMPLES / "helpdesk" / name).read_text().splitlines())
    return {row["text"]: row.get("output") for row in rows}


def test_each_message_has_the_label_of_the_help_desk() -> None:
    for name, source in (("labelled.csv", "config/tasks/triage.jsonl"), ("test.csv", "heldout/triage.jsonl")):
        known = rows_of(source)
        for message in messages(name):
            if message["task"] == "triage":
                assert message["output"] == known[message["text"]]["intent"]
    questions = [message for message in messages("labelled.csv") if message["task"] == "question"]
    assert {message["text"] for message in questions} == set(rows_of("config/tasks/policy_question.jsonl"))
    assert {message["output"] for message in questions} == {""}


def test_the_labels_are_as_frequent_as_documented() -> None:
    labelled = Counter(message["output"] for message in messages("labelled.csv"))
    assert labelled.pop("") == 60
    assert (len(labelled), set(labelled.values())) == (10, {30})
    assert Counter(message["output"] for message in messages("test.csv")) == dict.fromkeys(labelled, 6)


def test_no_test_message_is_among_the_labelled_ones() -> None:
    texts = [{" ".join(message["text"].lower().split()) for message in messages(name)} for name in
             ("labelled.csv", "test.csv")]  # fmt: skip
    assert not texts[0] & texts[1]
