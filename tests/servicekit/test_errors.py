"""Errors that are stored and raised more than once."""

from traceback import walk_tb

import pytest
from pointsman_servicekit.errors import PointsmanError, Unavailable


class Broken(Unavailable):
    """An error with a constructor of its own."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is broken", code="engine_error", param="model", retry_after=2.0)
        self.what = what


def raise_copy(error: PointsmanError) -> None:
    raise error.copy()


def test_a_copy_is_the_same_error_without_the_frames_of_others() -> None:
    stored = Broken("pump")
    stored.fault = "engine"
    for _ in range(3):
        with pytest.raises(Broken, match="pump is broken") as raised:
            raise_copy(stored)
        assert vars(raised.value) == vars(stored)
        assert str(raised.value) == str(stored)
        assert len(list(walk_tb(raised.value.__traceback__))) == 2
    assert stored.__traceback__ is None
