"""Answers are scored by what they are worth, not by their letters alone."""

import pytest
from pointsman_lora_server.training.scoring import Answered, score


def scored(*pairs: tuple[str, str]) -> dict[str, float]:
    return score([Answered(expected, got) for expected, got in pairs])


def test_json_is_compared_as_a_value_and_text_without_the_space_around_it() -> None:
    assert scored(('{"a": 1, "b": 2}', '{"b":2,"a":1}'), ("refund", " refund\n"))["exact"] == 1.0
    assert scored(("refund", "Refund"))["exact"] == 0.0


def test_half_of_the_fields_is_half_of_the_f1() -> None:
    found = scored(('{"intent": "refund", "slots": {"to": "Saltby"}}', '{"intent": "refund", "slots": {"to": "Wray"}}'))
    assert found == {"exact": 0.0, "json_f1": 0.5}


def test_fields_too_many_and_fields_too_few_both_cost() -> None:
    assert scored(('{"a": 1}', '{"a": 1, "b": 2}'))["json_f1"] == pytest.approx(2 / 3)
    assert scored(('{"a": 1, "b": 2}', '{"a": 1}'))["json_f1"] == pytest.approx(2 / 3)


def test_an_answer_that_is_no_json_has_no_fields() -> None:
    assert scored(('{"a": 1}', "I am not sure"), ('{"a": 1}', '{"a": 1}'))["json_f1"] == pytest.approx(2 / 3)


def test_lists_count_each_of_their_values() -> None:
    assert scored(('{"a": ["x", "y"]}', '{"a": ["y", "z"]}'))["json_f1"] == 0.5


def test_text_is_scored_by_its_words() -> None:
    assert scored(("your train is late", "Your train was late"))["word_f1"] == 0.75


def test_nothing_answered_is_no_score() -> None:
    assert score([]) == {}
