"""Chooses the number of held-out rows that are answered after training, to compare the new adapter with prompting the
base model.
"""

from collections.abc import Callable

MIN_DECIDING_ROWS = 20
"""The fewest held-out rows that a new and an old adapter version answer to be compared, unless there are fewer.

This many are answered even if it takes longer than the time limit: the comparison decides which version users get.
"""


def count_deciding_rows(available: int, answer_seconds: Callable[[int], float], max_seconds: float) -> int:
    """Returns how many of the `available` held-out rows to answer: `available`, halved until answering takes at most
    `max_seconds`, but not below `MIN_DECIDING_ROWS` (or `available`, if that is smaller).

    `answer_seconds` is a function that estimates the seconds for a given number of rows.
    """
    count = available
    while count > MIN_DECIDING_ROWS and answer_seconds(count) > max_seconds:
        count = max(MIN_DECIDING_ROWS, count // 2)
    return count
