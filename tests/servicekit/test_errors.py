"""Errors that are stored and raised more than once."""

import gc
import weakref
from contextlib import suppress
from traceback import walk_tb

import pytest
from google.rpc import error_details_pb2, status_pb2
from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable, take_error
from pointsman_servicekit.grpc_errors import to_status


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


class Work:
    def __init__(self, error: Unavailable | None) -> None:
        self.error = error

    def end(self) -> None:
        raise take_error(self)


def test_a_taken_error_leaves_no_garbage() -> None:
    work = Work(Broken("pump"))
    left = weakref.ref(work)
    gc.disable()
    try:
        with suppress(Broken):
            work.end()
        assert work.error is None
        del work
        assert left() is None
    finally:
        gc.enable()


def test_a_grpc_status_replaces_half_a_character_of_an_error() -> None:
    status = to_status(InvalidArgument("no field 'a\ud800'", code="bad_parameter", param="a\ud800"))
    assert status.details == "no field 'a?'"
    sent = status_pb2.Status.FromString(dict(status.trailing_metadata)["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert sent.details[0].Unpack(info)
    assert (sent.message, info.metadata["param"]) == ("no field 'a?'", "a?")
