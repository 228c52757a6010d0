"""A judge model's answer is parsed as a score, or rejected."""

import pytest
from pointsman_cli.eval.scoring import parse_score


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("Right. Score: 10", 1.0),
        ("The fee is wrong.\n**Score:** 3", 0.3),
        ("score = 0", 0.0),
        ("Score: 2 at first, but all told Score: 7/10", 0.7),
        ("All right.\nScore (0-10): 8", 0.8),
        ("**Score [0 to 10]:** 10/10.", 1.0),
        ("Score: 8 out of 10\r\n", 0.8),
        ("Score: 9\n\n(On the 0-10 scale, a score of 10 is as good.)", 0.9),
        ("Score: 10/10. Not a score: 3 of the facts", None),
        ("Score: 80/100", None),
        ("Score: -3", None),
        ("Score: 8\nOn second thoughts, score: 7.5", None),
        ("Underscore: 3", None),
        ("Score: 11", None),
        ("Score: 9.5", None),
        ("It scores well.", None),
        ("", None),
    ],
)
def test_the_score_is_the_last_line_that_ends_with_an_integer_from_0_to_10(said: str, score: float | None) -> None:
    assert parse_score(said) == score
