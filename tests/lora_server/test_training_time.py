"""Enough held-out rows decide on a trained version, however slow the machine is."""

import pytest
from pointsman_lora_server.training.deciding_rows import count_deciding_rows


@pytest.mark.parametrize(
    ("seconds_per_row", "available", "answered"),
    [(0.1, 64, 64), (0.5, 64, 32), (2.0, 64, 20), (1000.0, 64, 20), (1000.0, 30, 20), (1000.0, 7, 7), (1.0, 0, 0)],
)
def test_rows_are_left_out_for_time_down_to_twenty(seconds_per_row: float, available: int, answered: int) -> None:
    assert count_deciding_rows(available, lambda rows: rows * seconds_per_row, max_seconds=18.0) == answered
