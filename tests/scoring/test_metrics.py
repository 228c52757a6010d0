"""Each metric scores answers, and rejects invalid labels before any answer is requested."""

from pathlib import Path
from typing import Any

import pytest
from pointsman_scoring import METRICS, MetricError, metric_from, spec_from_text

REFUND = {"intent": "refund", "slots": {"booking": "LM-1", "amount": 12}, "urgency": "low"}


@pytest.mark.parametrize(
    ("spec", "answer", "expected", "score"),
    [
        ({"exact": True}, "  The  ANSWER ", "the answer", 1),
        ({"exact": True}, "the answers", "the answer", 0),
        ({"exact": True}, '{"b": [1, 2], "a": null}', {"a": None, "b": [1, 2.0]}, 1),
        ({"exact": True}, '{"b": [2, 1], "a": null}', {"a": None, "b": [1, 2]}, 0),
        ({"exact": True}, '{"a": 1}', {"a": True}, 0),
        ({"exact": True}, '{"a": "X"}', {"a": "x"}, 0),
        ({"exact": True}, '{"a": 1}', '{ "a" : 1 }', 1),
        ({"exact": True}, '```json\n{"a": 1}\n```', {"a": 1}, 0),
        ({"exact": True}, '{"a": {}}', {"a": []}, 0),
        ({"exact": True}, "[" * 100_000, [], 0),
        ({"exact": True}, "NaN", [], 0),
        ({"json_fields": True}, "no JSON", REFUND, 0),
        ({"json_fields": True}, '{"intent": "refund"}', REFUND, 2 / 5),
        ({"json_fields": True}, '{"intent": "refund", "slots": {"booking": "LM-2", "amount": 12}, "urgency": "low"}',
         REFUND, 6 / 8),
        ({"json_fields": True}, '{"intent": "refund", "invented": 1}', {"intent": "refund"}, 2 / 3),
        ({"json_fields": True}, '["a", "b"]', ["a", "c"], 1 / 2),
        ({"json_fields": True}, "{}", {}, 1),
        ({"contains": True}, "It costs  2.40 DOLLARS.", "2.40 dollars", 1),
        ({"contains": True}, "within 15 days", ["5 days"], 0),
        ({"contains": True}, "It costs 2.40.", ["2"], 0),
        ({"contains": True}, "It costs 12.40.", ["2.40"], 0),
        ({"contains": True}, "You have 7 days, and pay $5.", ["seven days", "$5"], 1 / 2),
        ({"contains": True}, "You have 7 days, and pay $5.", [["seven days", "7 days"], "$5"], 1),
        ({"regex": r"\$\d+\.\d\d"}, "2 x $3.60 is $7.20", "$7.20", 1),
        ({"regex": r"\$\d+\.\d\d"}, "$7.20 at first, $3.60 at last", "$7.20", 0),
        ({"regex": r"total is (\S+)"}, "so the total is $7.20", "$7.20", 1),
        ({"regex": r"^Good day"}, "Good day from us", None, 1),
        ({"regex": r"^Good day"}, "Dear Sir", None, 0),
        ({"regex": r"(a+)+$"}, "a" * 60 + "!", None, 0),
        # Lin 2004, section 3: "police kill the gunman" and "the gunman kill police" against "police killed the gunman".
        ({"rouge_l": True}, "police kill the gunman", "Police killed the gunman.", 3 / 4),
        ({"rouge_l": True}, "the gunman kill police", "police killed the gunman", 1 / 2),
        ({"rouge_l": True}, "", "police killed the gunman", 0),
        ({"rouge_l": True}, "die größe zählt", "Die Größe zählt nicht", 6 / 7),
    ],
)  # fmt: skip
def test_a_metric_scores_an_answer(spec: dict[str, Any], answer: str, expected: Any, score: float) -> None:
    assert metric_from(spec).score(answer, expected) == pytest.approx(score)


@pytest.mark.parametrize(
    ("spec", "expected", "says"),
    [
        ({"exact": True}, None, "the label is None"),
        ({"json_fields": True}, "free text", "an object or an array"),
        ({"contains": True}, [], "names none"),
        ({"contains": True}, [""], "not empty"),
        ({"contains": True}, {"a": 1}, "a text that is not empty"),
        ({"regex": "x"}, {"a": 1}, "with a text"),
        ({"rouge_l": True}, "...", "that has words"),
    ],
)
def test_a_label_that_a_metric_cannot_use_is_refused_whatever_the_answer(
    spec: dict[str, Any], expected: Any, says: str
) -> None:
    with pytest.raises(MetricError, match=says):
        metric_from(spec).score("", expected)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "names none"),
        ({"exact": True, "contains": True}, "exact, contains"),
        ({"exakt": True}, "unknown metric 'exakt'; known: exact, json_fields"),
        ({"judge": {"model": "x"}}, "unknown metric 'judge'"),
        ({"exact": "yes"}, "metric exact: it has no options; write true"),
        ({"regex": True}, "metric regex: the pattern is a text; it is True"),
        ({"regex": ""}, "the pattern is a text"),
        ({"regex": "("}, r"metric regex: bad pattern '\('"),
        ({"entry_point": True}, "entry_point is True; write module:function"),
        ({"entry_point": "nonsense"}, "write module:function"),
        ({"entry_point": "no_such_module:score"}, "ModuleNotFoundError"),
        ({"entry_point": "no_such_file.py:score"}, "there is no file no_such_file.py"),
        ({"entry_point": "json:no_such_function"}, "no function 'no_such_function' in json"),
        ({"no_such_module:Metric": True}, "no_such_module:Metric cannot be imported: ModuleNotFoundError"),
        ({"json:JSONDecoder": "x"}, "does not accept 'x': TypeError"),
        ({"builtins:str": "x"}, "has no method 'score'"),
    ],
)
def test_a_spec_that_makes_no_metric_is_refused(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(MetricError, match=says):
        metric_from(spec)


def test_an_entry_point_is_a_function_of_a_module_or_of_a_file(tmp_path: Path) -> None:
    assert metric_from({"entry_point": "operator:eq"}).score("a", "a") == 1
    file = tmp_path / "own.py"
    file.write_text("def score(answer, expected):\n    return {'good': 0.5, 'odd': 2}[answer]\n")
    metric = metric_from({"entry_point": f"{file}:score"})
    assert metric.score("good", None) == 0.5
    with pytest.raises(MetricError, match=r"returned 2.0; a score is from 0 to 1"):
        metric.score("odd", None)
    with pytest.raises(MetricError, match=r"own.py:score failed: KeyError: 'bad'"):
        metric.score("bad", None)


def test_the_command_line_writes_a_spec_as_a_name_or_a_name_and_a_text() -> None:
    assert spec_from_text("exact") == {"exact": True}
    assert spec_from_text("regex=a=b") == {"regex": "a=b"}
    assert METRICS == ("exact", "json_fields", "contains", "regex", "rouge_l", "entry_point")
