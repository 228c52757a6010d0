"""The statistics of training data that are reported before training starts."""

import json
from collections.abc import Sequence

from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.data_report import DataReport, describe_data


def row(question: str, answer: object, number: int = 1) -> Conversation:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return Conversation((Message("user", question),), text, f"rows.jsonl:{number}")


def examined(
    rows: Sequence[Conversation], heldout: Sequence[Conversation] = (), notes: Sequence[str] = ()
) -> DataReport:
    return describe_data(rows, heldout, notes, [10 * (index + 1) for index in range(len(rows))], 7)


def test_repeated_short_answers_are_counted_as_labels() -> None:
    found = examined([row(f"q{number}", ("refund", "lost")[number % 3 == 0]) for number in range(30)])
    assert found.labels == {"answer": {"refund": 20, "lost": 10}}
    assert found.warnings == ()


def test_labels_are_found_in_json_fields_but_not_in_free_text() -> None:
    rows = [row(f"q{n}", {"intent": ("a", "b")[n % 2], "note": f"text {n}"}) for n in range(20)]
    assert examined(rows).labels == {"intent": {"a": 10, "b": 10}}
    assert examined([row(f"q{n}", f"a reply of its own, number {n}") for n in range(20)]).labels == {}


def test_too_deeply_nested_answers_count_as_text() -> None:
    assert examined([row(f"q{n}", "[" * 1000) for n in range(8)]).labels == {}


def test_unbalanced_labels_are_reported_with_their_counts() -> None:
    rows = [row(f"q{n}", "normal" if n else "high") for n in range(40)]
    (warning,) = examined(rows).warnings
    assert warning == "answer: 'normal' has 39 rows and 'high' 1; give more of the rare ones"


def test_a_single_label_is_reported() -> None:
    assert "there is nothing to distinguish" in examined([row(f"q{n}", "yes") for n in range(9)]).warnings[0]


def test_a_label_that_occurs_only_in_held_out_rows_is_named() -> None:
    rows = [row(f"q{n}", ("a", "b")[n % 2]) for n in range(20)]
    found = examined(rows, [row("new", "c")])
    assert found.warnings == ("answer: 'c' is held out and never trained on",)


def test_skipped_rows_are_counted_by_reason() -> None:
    notes = [
        "rows.jsonl:2: left out, the same as rows.jsonl:1",
        "rows.jsonl:3: left out, its prompt is held out too (heldout.jsonl:1)",
        "rows.jsonl:4: left out, its 99 tokens are more than 50",
        "rows.jsonl:5: left out, its 98 tokens are more than 50",
    ]
    assert examined([row("q", "a")], (), notes).left_out == {"duplicate": 1, "held_out_too": 1, "too_long": 2}


def test_prompts_that_differ_only_in_case_with_different_answers_are_named() -> None:
    rows = [row("Where is it?", "lost", 1), row("where  is IT?", "refund", 2), row("WHERE is it?", "LOST", 3)]
    found = examined(rows)
    assert found.contradictory == ("rows.jsonl:1 and rows.jsonl:2",)
    assert "1 pairs of rows have the same prompt" in found.warnings[-1]


def test_lengths_are_reported_in_tokens() -> None:
    assert examined([row(f"q{n}", "a") for n in range(20)]).tokens == {"median": 105, "p95": 200, "longest": 200}
