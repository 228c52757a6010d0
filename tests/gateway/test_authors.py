"""Whose words a part of a text is, by its wording."""

import re

import pytest
from pointsman_gateway.classification.authors import instructs_model
from pointsman_gateway.classification.wrappers import labels_file


@pytest.mark.parametrize(
    "text",
    ["You are Claude, a helpful assistant.", "YOU MUST NOT GUESS.", "Réponds en français.", "Du bist ein Assistent."],
)
def test_instructions_to_a_model_are_found_in_any_case(text: str) -> None:
    assert instructs_model(text)


@pytest.mark.parametrize("text", ["Is there a train to Ellerbeck?", "I lost my card", ""])
def test_a_users_question_is_no_instruction(text: str) -> None:
    assert not instructs_model(text)


def test_the_patterns_are_in_lower_case_as_the_texts_that_they_search() -> None:
    patterns = [each for key in ("instructions", "openings") for each in labels_file()["parts"][key]]
    assert len(patterns) > 60
    plain = [re.sub(r"\\.|\(\?.", "", pattern) for pattern in patterns]  # without \S, (?P
    assert plain == [pattern.lower() for pattern in plain]
