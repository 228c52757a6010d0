"""A judge's words become a score, or none."""

import pytest
from pointsman_cli.eval.judge import score_in


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("Right. Score: 10", 1.0),
        ("The fee is wrong.\n**Score:** 3", 0.3),
        ("score = 0", 0.0),
        ("Score: 2 at first, but all told Score: 7/10", 0.7),
        ("Score: 11", None),
        ("Score: 9.5", None),
        ("It scores well.", None),
        ("", None),
    ],
)
def test_the_last_whole_number_from_0_to_10_counts(said: str, score: float | None) -> None:
    assert score_in(said) == score
