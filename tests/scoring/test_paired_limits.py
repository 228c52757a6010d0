"""The confidence limits of the difference between two paths hold at any number of rows, and enough rows decide each
comparison."""

from collections.abc import Sequence

import numpy as np
import pytest
from pointsman_scoring.paired_limits import Standing, differences_of, is_above, limits, standing
from pointsman_scoring.rows_needed import MAX_ROWS, rows_needed

ALPHA = 0.05


def scored(better: int, worse: int, alike: int) -> tuple[list[float], list[float]]:
    """Returns scores of two paths: the first is better on `better` rows, worse on `worse` rows, and equal on `alike`
    rows.
    """
    return [1.0] * better + [0.0] * worse + [1.0] * alike, [0.0] * better + [1.0] * worse + [1.0] * alike


def test_the_limits_lie_around_the_mean_and_become_narrower_with_more_rows() -> None:
    few, many = (limits(differences_of(*scored(3 * n, n, 6 * n)), ALPHA) for n in (5, 100))
    assert few.mean == many.mean == pytest.approx(0.2)
    assert -1 < few.low < many.low < 0.2 < many.high < few.high < 1


def test_the_limits_of_swapped_paths_are_those_of_the_paths_with_the_other_sign() -> None:
    one, other = scored(9, 4, 20)
    found, swapped = limits(differences_of(one, other), ALPHA), limits(differences_of(other, one), ALPHA)
    assert (found.low, found.high) == pytest.approx((-swapped.high, -swapped.low))


def test_rows_without_any_difference_still_leave_rare_ones_possible() -> None:
    """Even after n rows without a difference, a share of up to 3 / n of all rows may differ, with a probability of
    5 %.
    """
    found = limits(differences_of(*scored(0, 0, 100)), ALPHA)
    assert found.mean == 0
    assert 3 / 100 <= found.high <= 6 / 100


@pytest.mark.parametrize("shares", [(0.05, 0.05), (0.3, 0.3), (0.02, 0.0)], ids=["rare", "frequent", "one-sided"])
def test_a_claim_that_is_false_is_seldom_sure_even_if_it_is_looked_at_again_and_again(
    shares: tuple[float, float],
) -> None:
    """The tested mean is the true one. 300 streams of 300 rows are checked at every fifteenth row."""
    draw = np.random.default_rng(3)
    wrong = 0
    for _ in range(300):
        steps = draw.choice([1.0, -1.0, 0.0], 300, p=[*shares, 1 - sum(shares)])
        counts = np.stack([np.cumsum(steps == value) for value in (-1.0, 0.0, 1.0)], axis=1)
        wrong += any(_is_sure(count, shares[0] - shares[1]) for count in counts[9::15])
    assert wrong / 300 <= ALPHA


def _is_sure(counts: Sequence[int], true: float) -> bool:
    worse, alike, better = (int(count) for count in counts)
    return is_above(differences_of(*scored(better, worse, alike)), true, ALPHA)


def test_a_path_is_close_worse_or_neither() -> None:
    for rows, expected in (
        (scored(10, 10, 980), Standing.CLOSE),
        (scored(200, 50, 100), Standing.WORSE),
        (scored(3, 2, 20), Standing.OPEN),
    ):
        assert standing(differences_of(*rows), 0.05, ALPHA) is expected


def test_a_sure_difference_that_is_surely_below_the_margin_does_not_matter() -> None:
    differences = differences_of(*scored(200, 0, 9800))
    assert is_above(differences, 0.0, ALPHA)
    assert standing(differences, 0.05, ALPHA) is Standing.CLOSE
    assert standing(differences, 0.01, ALPHA) is Standing.WORSE


@pytest.mark.parametrize("true", [0.0, 0.025, 0.1])
def test_as_many_rows_as_are_named_decide_at_least_four_of_five_comparisons(true: float) -> None:
    draw = np.random.default_rng(5)
    decided = 0
    for _ in range(60):
        steps = draw.choice([1.0, -1.0, 0.0], 60, p=[0.1 + true / 2, 0.1 - true / 2, 0.8])
        differences = differences_of(np.maximum(steps, 0), np.maximum(-steps, 0))
        rows = rows_needed(differences, 0.05, ALPHA, 0.8)
        more = draw.choice([1.0, -1.0, 0.0], max(0, rows - 60), p=[0.1 + true / 2, 0.1 - true / 2, 0.8])
        steps = np.concatenate([steps, more])
        enough = differences_of(np.maximum(steps, 0), np.maximum(-steps, 0))
        decided += standing(enough, 0.05, ALPHA) is not Standing.OPEN
    assert decided >= 0.8 * 60


def test_a_smaller_difference_needs_more_rows() -> None:
    differences = differences_of(*scored(10, 10, 80))
    needed = [rows_needed(differences, margin, ALPHA, 0.8) for margin in (0.2, 0.1, 0.05, 0.0001)]
    assert 100 < needed[0] < needed[1] / 2 < needed[2] / 4
    assert needed[3] == MAX_ROWS


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [([], [], "there are 0 and 0"), ([1.0], [1.0, 0.0], "there are 1 and 2"), ([1.5], [0.0], "is outside -1 to 1")],
)
def test_scores_that_are_no_pairs_are_rejected(one: list[float], other: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        differences_of(one, other)
