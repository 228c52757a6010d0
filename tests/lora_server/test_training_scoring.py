"""Answers are scored by their meaning, not only by exact equality."""

import pytest
from pointsman_lora_server.training.scoring import ScoredAnswer, score


def scored(*pairs: tuple[str, str]) -> dict[str, float]:
    return score([ScoredAnswer(expected, got) for expected, got in pairs])


def test_json_is_compared_as_a_value_and_text_without_the_space_around_it() -> None:
    assert scored(('{"a": 1, "b": 2}', '{"b":2,"a":1}'), ("refund", " refund\n"))["exact"] == 1.0
    assert scored(("refund", "Refund"))["exact"] == 0.0


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ('{"urgent": true, "n": 1}', '{"urgent": 1, "n": true}'),
        ('{"a": 0}', '{"a": false}'),
        ('{"a": [1, 0]}', '{"a": [true, 0]}'),
        ('{"a": {}}', '{"a": []}'),
        ("true", "1"),
    ],
)
def test_values_of_other_types_are_not_the_same(expected: str, got: str) -> None:
    assert not ScoredAnswer(expected, got).is_exact
    assert ScoredAnswer(expected, expected).is_exact


def test_numbers_are_compared_by_value() -> None:
    assert scored(('{"sum": 2.5, "n": 1}', '{"n": 1.0, "sum": 2.50}')) == {"exact": 1.0, "json_f1": 1.0}


def test_an_exact_match_respects_list_order() -> None:
    assert scored(('{"a": ["x", "y"]}', '{"a": ["y", "x"]}')) == {"exact": 0.0, "json_f1": 1.0}


@pytest.mark.parametrize("depth", [900, 1000, 100_000])
def test_a_too_deeply_nested_answer_is_wrong(depth: int) -> None:
    deep = '{"a": ' * depth + "1" + "}" * depth
    assert scored(('{"a": 1}', deep), ('{"a": 1}', "[" * depth)) == {"exact": 0.0, "json_f1": 0.0}
    assert ScoredAnswer(deep, deep).is_exact


def test_half_of_the_fields_gives_half_of_the_f1() -> None:
    found = scored(('{"intent": "refund", "slots": {"to": "Saltby"}}', '{"intent": "refund", "slots": {"to": "Wray"}}'))
    assert found == {"exact": 0.0, "json_f1": 0.5}


def test_extra_and_missing_fields_lower_the_score() -> None:
    assert scored(('{"a": 1}', '{"a": 1, "b": 2}'))["json_f1"] == pytest.approx(2 / 3)
    assert scored(('{"a": 1, "b": 2}', '{"a": 1}'))["json_f1"] == pytest.approx(2 / 3)


def test_an_invalid_json_answer_has_no_fields() -> None:
    assert scored(('{"a": 1}', "I am not sure"), ('{"a": 1}', '{"a": 1}'))["json_f1"] == pytest.approx(2 / 3)


def test_lists_count_each_of_their_values() -> None:
    assert scored(('{"a": ["x", "y"]}', '{"a": ["y", "z"]}'))["json_f1"] == 0.5


def test_text_is_scored_by_its_words() -> None:
    assert scored(("your train is late", "Your train was late"))["word_f1"] == 0.75


def test_an_empty_answer_scores_zero() -> None:
    assert score([]) == {}
