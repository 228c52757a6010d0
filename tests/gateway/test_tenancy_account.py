"""What a gateway asks Redis for of one limit."""

import pytest
from pointsman_gateway.tenancy.leases import LeasedLimit

PLENTY = 1000


def _of_streams() -> LeasedLimit:
    return LeasedLimit("acme:concurrent_streams", "concurrent_streams", PLENTY, "this gateway")


def _exchange(limit: LeasedLimit, now: float) -> int:
    """Redis gives what is wished for. What may be taken after that."""
    report = limit.report(0, 0, 1, now)
    _, used, carried, wish, _ = report
    held = used + carried + wish
    limit.install([0, 0, held, PLENTY - held, PLENTY - used], report, now, now)
    return limit.free


def _in_flight(limit: LeasedLimit, streams: int) -> None:
    limit.free = limit.held - streams


def test_room_is_kept_for_as_many_streams_as_there_were_a_moment_ago() -> None:
    limit = _of_streams()
    _in_flight(limit, 64)
    assert _exchange(limit, 0.0) == 34  # half as many again, and two
    _in_flight(limit, 5)  # a batch of answers has just ended: as many new requests follow
    assert _exchange(limit, 0.01) >= 64 - 5


@pytest.mark.parametrize(("streams", "seconds"), [(1, 2.0), (64, 8.0)])
def test_room_is_given_back_where_nobody_comes_any_more(streams: int, seconds: float) -> None:
    limit = _of_streams()
    _in_flight(limit, streams)
    _exchange(limit, 0.0)
    _in_flight(limit, 0)
    assert limit.is_due(seconds)
    assert _exchange(limit, seconds) == 0
    assert limit.is_settled


def test_with_who_waits_others_are_let_in_too() -> None:
    limit = _of_streams()
    report = limit.report(1, 1, 1, 0.0)
    assert report[3] == PLENTY // 16
    limit.install([0, 0, PLENTY // 16, PLENTY - PLENTY // 16, PLENTY], report, 0.0, 0.0)
    limit.left = 4  # the others have taken almost all
    assert limit.report(1, 1, 1, 0.1)[3] == (4 + PLENTY // 16) // 2
    assert _exchange(limit, 8.0) == 0  # nobody came


def test_little_is_asked_for_where_little_is_left() -> None:
    limit = _of_streams()
    limit.left = 10
    assert limit.report(1, 1, 1, 0.0)[3] == 5
    assert limit.report(1, 1, 5, 0.0)[3] == 1
