"""How many held-out rows are answered at the end of a training, by which the version is compared with prompting."""

from collections.abc import Callable

MIN_DECIDING_ROWS = 20
"""The smallest number of rows, whatever time they take, because the comparison decides which version users get."""


def count_deciding_rows(available: int, answer_seconds: Callable[[int], float], max_seconds: float) -> int:
    """Returns `available`, halved until the rows take at most `max_seconds`, but not below `MIN_DECIDING_ROWS`.

    `answer_seconds` estimates the seconds for a number of rows.
    """
    count = available
    while count > MIN_DECIDING_ROWS and answer_seconds(count) > max_seconds:
        count = max(MIN_DECIDING_ROWS, count // 2)
    return count
