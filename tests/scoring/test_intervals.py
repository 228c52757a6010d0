"""Confidence intervals have their nominal coverage, and paired tests detect differences."""

import numpy as np
import pytest
from pointsman_scoring.intervals import compare, holm, mean_interval


def test_scores_of_zero_and_one_get_wilsons_interval() -> None:
    found = mean_interval([1] * 81 + [0] * 182)  # R. G. Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_an_interval_of_failures_only_has_a_width() -> None:
    found = mean_interval([0] * 29)  # Newcombe again: 0 of 29
    assert (found.mean, found.low, found.high) == (0, 0, pytest.approx(0.1170, abs=5e-5))


def test_an_interval_of_equal_scores_has_a_width() -> None:
    found = mean_interval([0.5] * 10)
    assert found.low < 0.3 < 0.7 < found.high


def test_bootstrap_intervals_have_about_their_nominal_coverage() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        found = mean_interval(draw.beta(4, 2, size=80).tolist())
        held += found.low <= 2 / 3 <= found.high
    assert 51 <= held <= 60  # the expected value is 57 of 60; fewer than 51 would occur once in 300 samples


def test_the_same_scores_give_the_same_interval() -> None:
    scores = [0.1, 0.5, 0.9, 0.3]
    assert mean_interval(scores) == mean_interval(scores)


def test_a_difference_between_right_and_wrong_is_tested_by_mcnemar() -> None:
    found = compare([1] * 10 + [0] * 2 + [1] * 8, [0] * 10 + [1] * 2 + [1] * 8)
    assert found.test == "mcnemar"
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # 2 or fewer of 12 differing pairs, on either side
    assert found.difference.mean == pytest.approx(0.4)
    assert 0 < found.difference.low < 0.4 < found.difference.high


def test_other_differences_are_tested_by_flipping_signs() -> None:
    clear = compare([0.9, 0.8, 0.9, 0.7, 0.8, 0.9, 0.6, 0.8], [0.5, 0.4, 0.6, 0.5, 0.3, 0.5, 0.5, 0.2])
    assert clear.test == "permutation"
    assert clear.p_value == pytest.approx(2 / 2**8)  # all differ in one direction: 1/256 on either side
    chance = compare([0.5, 0.6, 0.4, 0.5], [0.6, 0.5, 0.5, 0.4])
    assert chance.p_value == 1


def test_a_single_differing_row_is_not_significant() -> None:
    found = compare([1.0] * 99 + [0.5], [1.0] * 100)
    assert (found.test, found.p_value, found.difference.mean) == ("permutation", 1, pytest.approx(-0.005))


def test_equal_scores_have_a_difference_of_zero() -> None:
    for scores in ([1.0, 0.0] * 20, [0.3, 0.4] * 20):
        found = compare(scores, scores)
        assert (found.difference.mean, found.p_value) == (0, 1)
        # Clopper and Pearson: the upper limit for 0 of 40 is 0.0881
        assert (found.difference.low, found.difference.high) == (
            pytest.approx(-0.0881, abs=5e-5),
            -found.difference.low,
        )


@pytest.mark.parametrize(("first", "second"), [([1.0, 1.0], [0.0, 0.0]), ([0.4, 0.3], [0.3, 0.2])])
def test_an_interval_of_equal_differences_has_a_width(first: list[float], second: list[float]) -> None:
    found = compare(first * 5, second * 5).difference
    assert found.mean == pytest.approx(first[0] - second[0])
    # Clopper and Pearson: the lower limit for 10 of 10 is 0.6915; the others are between -1 and 1
    assert found.low == pytest.approx(0.6915 * found.mean - 0.3085, abs=1e-4)
    assert found.high == pytest.approx(0.6915 * found.mean + 0.3085, abs=1e-4)


def test_intervals_of_few_rows_have_their_nominal_coverage() -> None:
    draw = np.random.default_rng(1)
    for rows in (1, 2, 3, 5):
        held = 0
        for _ in range(200):
            first = np.where(draw.random(rows) < 0.9, draw.uniform(0.9, 1, rows), 0).tolist()
            found = compare(first, [0.0] * rows).difference
            held += found.low <= 0.9 * 0.95 <= found.high
        assert held >= 190


def test_interval_and_test_agree_for_equal_differences() -> None:
    for rows in range(1, 12):
        found = compare([1.0] * rows, [0.0] * rows)
        assert (found.difference.low > 0) == (found.p_value < 0.05)


def test_holms_correction_applies_to_several_comparisons() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [([], [], "no scores"), ([1], [1, 0], "there are 1 and 2"), ([1.5], [1], "outside 0 to 1")],
)
def test_invalid_scores_are_rejected(first: list[float], second: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compare(first, second)
