"""A judge model's answer is parsed as a score, or rejected."""

import pytest
from pointsman_scoring.judge import PairScore, combine, parse_pair, parse_score


@pytest.mark.parametrize(
    ("message", "score"),
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
def test_the_score_is_the_last_line_that_ends_with_an_integer_from_0_to_10(message: str, score: float | None) -> None:
    assert parse_score(message) == score


@pytest.mark.parametrize(
    ("message", "scores"),
    [
        ("A is right, B is not.\nScore A: 9\nScore B: 2", (0.9, 0.2)),
        ("**Score A:** 7/10\n**Score B:** 7/10", (0.7, 0.7)),
        ("Score A: 9", None),
        ("Score A: 9\nScore B: eleven", None),
        ("Score: 9", None),
    ],
)
def test_a_judge_of_two_answers_must_score_both(message: str, scores: tuple[float, float] | None) -> None:
    assert parse_pair(message) == scores


@pytest.mark.parametrize(
    ("in_order", "swapped", "combined"),
    [
        ((0.9, 0.3), (0.1, 0.7), PairScore(0.8, 0.2, "first")),
        ((0.2, 0.4), (0.6, 0.4), PairScore(0.3, 0.5, "second")),
        ((0.5, 0.5), (0.7, 0.7), PairScore(0.6, 0.6, "tie")),
        ((0.8, 0.2), (0.8, 0.2), PairScore(0.5, 0.5, "disagreement")),
        ((0.8, 0.2), (0.5, 0.5), PairScore(0.5, 0.5, "disagreement")),
    ],
)
def test_a_preference_counts_only_if_it_holds_in_both_orders(
    in_order: tuple[float, float], swapped: tuple[float, float], combined: PairScore
) -> None:
    found = combine(in_order, swapped)
    assert (found.first, found.second) == pytest.approx((combined.first, combined.second))
    assert found.preference == combined.preference
